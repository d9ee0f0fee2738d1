"""From a name to weights on this machine: a path, a published model, or a file or folder on the Hugging Face hub.

    chorus-3dgs                      a published model (`PUBLISHED`), or its file's stem
    hf:OWNER/REPO[@REVISION]/FILE    a file of any repository
    hf:OWNER/REPO[@REVISION]         a folder that we exported and somebody pushed (or /FOLDER within the repository)
    path/to/file.pth                 what lies there; a path that exists comes before a name

Published models are looked up in the folder `CHORUS_CHECKPOINT_DIR`, then through huggingface_hub in its cache
(`HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `HF_HOME`), then on the hub, unless `HF_HUB_OFFLINE` is set.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from chorus_common.runtime.config import Config
from chorus_common.runtime.errors import WeightsError, did_you_mean, one_line
from chorus_common.runtime.weight_files import SUFFIXES, quiet_downloads

#: Folder that is searched before the hub, as with the authors' own package.
CHECKPOINT_DIR = "CHORUS_CHECKPOINT_DIR"
#: What a folder of ours consists of.
FOLDER_FILES = ("config.json", "model.safetensors")
_PREFIX = "hf:"


@dataclass(frozen=True)
class HubFile:
    """A released model: where its file lies, under which licence ("" = not stated on a page that we know)."""

    repository: str
    file: str
    licence: str = ""


_CONCERTO = "CC BY-NC 4.0"
#: Models by the name of their preset.
PUBLISHED = {
    "chorus-3dgs": HubFile("SceneSplatPro/Chorus", "lang-dino-enc-pretrain-scan-ppv2-mp3d-mcmc.pth", "CC BY-SA 4.0"),
    "chorus-pts": HubFile(
        "SceneSplatPro/Chorus", "lang-dino-enc-pretrain-ppv2-mcmc-from-pts-params.pth", "CC BY-SA 4.0"
    ),
    "sonata": HubFile("facebook/sonata", "sonata.pth", "CC BY-NC 4.0"),
    "concerto-small": HubFile("Pointcept/Concerto", "concerto_small.pth", _CONCERTO),
    "concerto-base": HubFile("Pointcept/Concerto", "concerto_base.pth", _CONCERTO),
    "concerto-large": HubFile("Pointcept/Concerto", "concerto_large.pth", _CONCERTO),
    "utonia": HubFile("Pointcept/Utonia", "utonia.pth"),
    "scenesplat": HubFile(
        "GaussianWorld/SceneSplat_lang-pretrain-concat-scan-ppv2-matt-mcmc-wo-normal-contrastive",
        "model_best.pth",
        "CC BY-SA 4.0",
    ),
    "litept-s": HubFile("prs-eth/LitePT", "scannet-semseg-litept-small-v1m1/model/model_best.pth"),
}


class Origin(Config):
    """Where weights come from, as it stands in configs, results and model cards.

    Attributes:
        name: as it was asked for. repository, revision, file: on the hub; revision is a commit.
        bytes, sha256: of the file. licence: of the weights, "" = unknown.
    """

    name: str
    repository: str = ""
    revision: str = ""
    file: str = ""
    bytes: int
    sha256: str
    licence: str = ""


@dataclass(frozen=True)
class WeightsSource:
    """Weights on this machine: `path` is a file or a folder of ours; the rest as in `Origin`.

    made_from: for a folder of ours, what it says itself on where its weights come from.
    """

    path: Path
    name: str
    repository: str = ""
    revision: str = ""
    file: str = ""
    licence: str = ""
    made_from: Origin | None = None

    def lineage(self) -> Origin | None:
        """Where weights that are made from these come from: these, or what our folder was made from."""
        return self.made_from if self.path.is_dir() else self.origin()

    def origin(self) -> Origin:
        """The record of the weights themselves, with the file's size and hash (read once per file)."""
        file = self.path / FOLDER_FILES[1] if self.path.is_dir() else self.path
        status = file.stat()
        return Origin(
            name=self.name,
            repository=self.repository,
            revision=self.revision,
            file=self.file,
            bytes=status.st_size,
            sha256=_sha256(file, status.st_size, status.st_mtime_ns),
            licence=self.licence,
        )


def locate(name: str | Path) -> WeightsSource:
    """The weights called `name`, fetched where they are not on this machine.

    Raises WeightsError, one line that says what to do, where there are none, the repository is gated or does not
    exist, or there is no network.
    """
    text = str(name)
    path = Path(text).expanduser()
    if path.exists():
        return WeightsSource(path, text, licence=_known_licence(path))
    if text.startswith(_PREFIX):
        return _hub_source(text)
    known = next((key for key, p in PUBLISHED.items() if text in (key, *_own_names(p))), None)
    if known is not None:
        return _published_source(text, known)
    if "/" in text or "\\" in text or text.endswith(SUFFIXES):
        raise WeightsError(f"{text}: no such file or folder")
    hint = did_you_mean(text, PUBLISHED, likeness=0.6)
    raise WeightsError(
        f"{text}: no such file or folder, and no published model{hint} (known: {', '.join(PUBLISHED)}; others are "
        "hf:OWNER/REPO/FILE)"
    )


def _own_names(known: HubFile) -> tuple[str, ...]:
    """The stem by which the file of a published model is known; none for names that any trainer gives."""
    stem = Path(known.file).stem
    return () if stem == "model_best" else (stem,)


def _published_source(name: str, key: str) -> WeightsSource:
    known = PUBLISHED[key]
    names = [f"{stem}.pth" for stem in (*_own_names(known), key)]
    if folder := os.environ.get(CHECKPOINT_DIR, ""):
        for local in (Path(folder).expanduser() / file for file in names):
            if local.is_file():
                return WeightsSource(local, name, known.repository, "", known.file, known.licence)
    place = f", or put it as {names[0]} into the folder that {CHECKPOINT_DIR} names"
    path, revision = _download(name, known.repository, None, known.file, place)
    return WeightsSource(path, name, known.repository, revision, known.file, known.licence)


def _hub_source(name: str) -> WeightsSource:
    repository, revision, file = parse_hub_name(name)
    licence = next((p.licence for p in PUBLISHED.values() if p.repository.lower() == repository.lower()), "")
    if file and file.endswith(SUFFIXES):
        path, commit = _download(name, repository, revision, file)
        if Path(file).name == FOLDER_FILES[1]:  # a folder of ours, or a release with its arguments beside it
            beside = file.removesuffix(FOLDER_FILES[1]) + FOLDER_FILES[0]
            if _optional(name, repository, revision, beside) is not None:
                path = path.parent
        return WeightsSource(path, name, repository, commit, file, licence)
    parts = [f"{file}/{part}" if file else part for part in FOLDER_FILES]
    path, commit = [_download(name, repository, revision, part) for part in parts][-1]
    return WeightsSource(path.parent, name, repository, commit, parts[-1], licence)


def parse_hub_name(name: str) -> tuple[str, str | None, str]:
    """(OWNER/REPO, revision or None, FILE or "") of `hf:OWNER/REPO[@REVISION][/FILE]`."""
    owner, _, rest = name.removeprefix(_PREFIX).partition("/")
    repository, _, file = rest.partition("/")
    repository, at, revision = repository.partition("@")
    parts = [owner, repository, *file.split("/")] if file else [owner, repository]
    if not owner or not repository or (at and not revision) or any(part in ("", ".", "..") for part in parts):
        raise WeightsError(f"{name}: expected hf:OWNER/REPO[@REVISION]/FILE")
    return f"{owner}/{repository}", revision or None, file


def _optional(name: str, repository: str, revision: str | None, file: str) -> Path | None:
    try:
        return _download(name, repository, revision, file)[0]
    except _NoSuchFileError:
        return None


class _NoSuchFileError(WeightsError):
    """The repository exists and does not hold the file."""


def _download(name: str, repository: str, revision: str | None, file: str, place: str = "") -> tuple[Path, str]:
    """Path in the hub's cache and commit of a file, fetched where it is not there yet. place: advice on where else it
    is looked for.
    """
    from huggingface_hub import errors, hf_hub_download

    page = f"https://huggingface.co/{repository}"
    own_copy = f"or give the path of a copy{place}"
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    try:
        with quiet_downloads():
            found = Path(
                hf_hub_download(
                    repository, file, revision=revision, cache_dir=_cache_folder(), local_files_only=offline
                )
            )
    except errors.GatedRepoError:
        raise WeightsError(
            f"{name}: {repository} is gated: accept its terms on {page} and log in with `hf auth login` (or set "
            f"HF_TOKEN), {own_copy}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise WeightsError(
            f"{name}: there is no repository {repository} on the hub, or it is private: check the name, log in with "
            "`hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise WeightsError(f"{name}: {repository} has no revision '{revision}'; see {page}/commits") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        why = "HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached"
        raise WeightsError(
            f"{name}: not in the hub's cache, and {why}: fetch {file} from {page} where there is a network, {own_copy}"
        ) from None
    except errors.EntryNotFoundError:
        raise _NoSuchFileError(f"{name}: {repository} holds no file {file}; see {page}/tree/main") from None
    except errors.HFValidationError:
        raise WeightsError(f"{name}: expected hf:OWNER/REPO[@REVISION]/FILE") from None
    except Exception as error:  # network, proxy, disk: a dozen kinds of error from three libraries, one remedy
        raise WeightsError(
            f"{name}: cannot fetch {file} ({one_line(error)[:120]}): download it from {page}, {own_copy}"
        ) from None
    return found, _commit(found)


def _cache_folder() -> str | None:
    """The hub's cache as the environment names it now; None = the hub client's own choice."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if folder := os.environ.get(variable):
            return os.path.expanduser(folder)
    home = os.environ.get("HF_HOME")
    return os.path.join(os.path.expanduser(home), "hub") if home else None


def _commit(path: Path) -> str:
    """The commit in a path of the hub's cache, .../snapshots/<commit>/..."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts[:-1] else ""


def _known_licence(path: Path) -> str:
    """Licence of a file that carries the name of a published one."""
    return next((p.licence for p in PUBLISHED.values() if path.stem in _own_names(p)), "")


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, modified: int) -> str:
    """Hash of a file; size and time of change make it another one."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
