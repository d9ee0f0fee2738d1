"""Paths in a bucket (S3-compatible or Google's), on a web server or in memory, with the few operations of pathlib that
a store needs.

Object stores have no folders and no rename. What they have, and what everything here is built on: an object appears
whole or not at all, and it can be created on the condition that it is not there yet (`If-None-Match: *`). Needs the
extra `s3` (obstore). Address and keys of s3:// come from the usual variables: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_REGION, and AWS_ENDPOINT_URL for servers other than Amazon's; those of gs:// from GOOGLE_APPLICATION_CREDENTIALS or
GOOGLE_SERVICE_ACCOUNT. A web server is read only and lists nothing. memory:// lives as long as the process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from chorus_common.runtime.errors import CacheError, ConfigError

#: What addresses may begin with.
SCHEMES = ("s3", "gs", "https", "http", "memory")

#: Bytes that `download` asks for at once.
_BLOCK = 16 << 20

#: Requests of one scene that are under way at once.
PARALLEL = 16


class BucketError(CacheError):
    """The server of a bucket refuses or does not answer; trying again later may help."""


@dataclass(frozen=True, order=True)
class BucketPath:
    """An object, or all objects whose keys begin with `key` and a slash. Every method may raise BucketError: one line.

    `scheme`, `bucket` and `key` as in s3://bucket/key; of a web server `bucket` is the host.
    """

    bucket: str
    key: str = ""
    scheme: str = "s3"

    @staticmethod
    def parse(text: str) -> BucketPath:
        """s3://bucket/key, or the same with another of `SCHEMES`. Raises ConfigError."""
        scheme, _, place = text.partition("://")
        bucket, _, key = place.partition("/")
        parts = [part for part in key.split("/") if part]
        if scheme not in SCHEMES or not bucket or {".", ".."} & set(parts):
            raise ConfigError(f"{text}: not an address in a bucket; write s3://BUCKET/PATH")
        return BucketPath(bucket, "/".join(parts), scheme)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}".rstrip("/")

    def __truediv__(self, name: str) -> BucketPath:
        return replace(self, key=f"{self.key}/{name}".strip("/"))

    @property
    def lists(self) -> bool:
        """Whether it can be asked for what is there; a web server answers for one object at a time."""
        return self.scheme not in ("http", "https")

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return self.name.rpartition(".")[0] or self.name

    @property
    def parent(self) -> BucketPath:
        return replace(self, key=self.key.rpartition("/")[0])

    def with_name(self, name: str) -> BucketPath:
        return self.parent / name

    # -- one object --------------------------------------------------------------------------------------------------

    def read_bytes(self, start: int = 0, end: int | None = None) -> bytes:
        """The object's bytes from `start` to `end`. Raises FileNotFoundError where there is none."""
        with self._speaking() as (obstore, store):
            if end is None and start == 0:
                return bytes(obstore.get(store, self.key).bytes())
            end = self.size() if end is None else end
            return bytes(obstore.get_range(store, self.key, start=start, end=end)) if end > start else b""

    def download(self, file: Path) -> None:
        """Copy the object to `file`, a block at a time. Raises FileNotFoundError where there is none."""
        size = self.size()
        with open(file, "wb") as handle:
            for start in range(0, size, _BLOCK):
                handle.write(self.read_bytes(start, min(start + _BLOCK, size)))

    def write_bytes(self, data: bytes) -> None:
        """Put the object: whole or not at all, over whatever is there."""
        with self._writing() as (obstore, store):
            obstore.put(store, self.key, data)

    def create_bytes(self, data: bytes) -> bool:
        """Put the object unless there is one already; whether it was put. Of several that try at once, one succeeds."""
        with self._writing() as (obstore, store):
            try:
                obstore.put(store, self.key, data, mode="create", use_multipart=False)
            except obstore.exceptions.AlreadyExistsError:
                # A request that was answered too late is sent again, and then meets its own work.
                return bytes(obstore.get(store, self.key).bytes()) == data
        return True

    def size(self) -> int:
        """Bytes. Raises FileNotFoundError where there is no such object."""
        with self._speaking() as (obstore, store):
            return int(obstore.head(store, self.key)["size"])

    def is_file(self) -> bool:
        try:
            self.size()
        except FileNotFoundError:
            return False
        return True

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def unlink(self, missing_ok: bool = True) -> None:
        """Remove the object; one that is not there counts as removed, as everywhere in S3."""
        with self._writing() as (obstore, store):
            obstore.delete(store, [self.key])

    # -- all objects below -------------------------------------------------------------------------------------------

    def _check_lists(self) -> None:
        if not self.lists:
            raise BucketError(f"{self}: a web server does not list what it has; give --manifest")

    def is_dir(self) -> bool:
        """Whether anything lies below; of a web server, which does not list, taken for granted."""
        if not self.lists:
            return True
        with self._speaking() as (obstore, store):
            return any(obstore.list(store, prefix=f"{self.key}/".lstrip("/"), chunk_size=1))

    def files(self) -> dict[str, tuple[int, float]]:
        """Relative name -> size and time of writing (seconds since 1970, the server's clock) of all objects below."""
        self._check_lists()
        prefix = f"{self.key}/".lstrip("/")
        with self._speaking() as (obstore, store):
            return {
                found["path"].removeprefix(prefix): (int(found["size"]), found["last_modified"].timestamp())
                for page in obstore.list(store, prefix=prefix)
                for found in page
            }

    def children(self) -> tuple[list[str], list[str]]:
        """Names of the objects directly below, and of the "folders" there, each sorted."""
        self._check_lists()
        prefix = f"{self.key}/".lstrip("/")
        with self._speaking() as (obstore, store):
            found = obstore.list_with_delimiter(store, prefix=prefix)
        files = [entry["path"].removeprefix(prefix) for entry in found["objects"]]
        folders = [name.removeprefix(prefix).rstrip("/") for name in found["common_prefixes"]]
        return sorted(files), sorted(folders)

    def glob(self, pattern: str) -> list[BucketPath]:
        """Objects that match, level by level ("*/*.zarr"), sorted. As in a shell, "*" does not match a leading dot."""
        first, _, rest = pattern.partition("/")
        files, folders = self.children()
        names = [
            name
            for name in (folders if rest else files)
            if fnmatchcase(name, first) and (first.startswith(".") or not name.startswith("."))
        ]
        return [path for name in names for path in ((self / name).glob(rest) if rest else [self / name])]

    def remove_tree(self) -> None:
        """Remove all objects below."""
        with self._speaking() as (obstore, store):
            for page in obstore.list(store, prefix=f"{self.key}/".lstrip("/")):
                obstore.delete(store, [found["path"] for found in page])

    def read_many(self, names: list[str]) -> list[bytes]:
        """Bytes of several objects below, in the order of `names`, fetched at once."""
        with ThreadPoolExecutor(PARALLEL) as threads:
            return list(threads.map(lambda name: (self / name).read_bytes(), names))

    @contextmanager
    def _speaking(self) -> Iterator[tuple[Any, Any]]:
        """obstore and the bucket; what goes wrong between us and the server becomes one line."""
        obstore, store = _connect(self.scheme, self.bucket, _endpoint() if self.scheme == "s3" else "", os.getpid())
        try:
            yield obstore, store
        except FileNotFoundError:
            raise FileNotFoundError(2, "no such object", str(self)) from None
        except (obstore.exceptions.BaseError, PermissionError) as error:
            reason = " ".join(str(error).split())[:300]
            known = "AWS_ENDPOINT_URL, AWS_REGION and the keys" if self.scheme == "s3" else "the address and the keys"
            raise BucketError(
                f"{self}: the bucket does not answer as it should ({reason}); check the network, {known}, then run the "
                "same command again"
            ) from None

    @contextmanager
    def _writing(self) -> Iterator[tuple[Any, Any]]:
        """As `_speaking`; where nothing has to be there before, what is missing is the bucket itself."""
        if not self.lists:
            raise ConfigError(f"{self}: a web server is read only; write to a folder or a bucket")
        try:
            with self._speaking() as connection:
                yield connection
        except FileNotFoundError:
            raise BucketError(f"{self}: there is no such bucket; make it, or check AWS_ENDPOINT_URL") from None


@lru_cache(maxsize=1)
def _first_process() -> int:
    """The process that spoke to a bucket first; a forked child inherits the answer."""
    return os.getpid()


@lru_cache(maxsize=8)
def _connect(scheme: str, bucket: str, endpoint: str, process: int) -> tuple[Any, Any]:
    """obstore and a client of `bucket`, once per process and server."""
    try:
        import obstore
        import obstore.store
    except ImportError:
        raise ConfigError(f"{scheme}://{bucket}: needs obstore; pip install 'chorus3d[s3]'") from None
    if _first_process() != process:  # obstore's threads do not survive a fork, and waiting for them never ends
        raise CacheError(
            f"{scheme}://{bucket}: this process was forked after the bucket was used; start it with 'spawn'"
        )
    if scheme == "memory":
        return obstore, _memory(bucket)
    retries = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}
    if scheme == "gs":
        return obstore, obstore.store.GCSStore(bucket, retry_config=retries)
    if scheme in ("http", "https"):
        options = {"allow_http": scheme == "http"}
        address = f"{scheme}://{bucket}"
        return obstore, obstore.store.HTTPStore.from_url(address, client_options=options, retry_config=retries)
    return obstore, _s3(bucket, endpoint, retries)


def _endpoint() -> str:
    """Address of an S3 server other than Amazon's, or ""."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def _s3(bucket: str, endpoint: str, retries: dict[str, Any]) -> Any:
    from obstore.store import S3Store

    own_server: dict[str, Any] = {}
    if endpoint:
        own_server = {
            "endpoint": endpoint,
            "virtual_hosted_style_request": False,
            "client_options": {"allow_http": endpoint.startswith("http://")},
        }
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return S3Store(bucket, region=region, retry_config=retries, **own_server)


@cache
def _memory(bucket: str) -> Any:
    """The one bucket of this name in this process."""
    from obstore.store import MemoryStore

    return MemoryStore()
