"""Names of weights: what they stand for, where they are looked for, and what is said where they cannot be had."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from chorus_common.runtime.errors import WeightsError
from stage2_distill import hub
from stage2_distill.hub import PUBLISHED, locate, parse_hub_name

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CHORUS = PUBLISHED["chorus-3dgs"]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cache of this machine, and no network."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", hub.CHECKPOINT_DIR):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def in_cache(cache: Path, repository: str, file: str, content: bytes = b"weights") -> Path:
    """`file` of `repository` as the hub's client keeps it."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    path = folder / "snapshots" / COMMIT / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT)
    return path


@pytest.mark.parametrize("variable", ["HF_HOME", "HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE"])
@pytest.mark.parametrize("name", ["chorus-3dgs", Path(CHORUS.file).stem, f"hf:SceneSplatPro/Chorus/{CHORUS.file}"])
def test_found_in_the_cache(variable: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    path = in_cache(cache / "hub" if variable == "HF_HOME" else cache, CHORUS.repository, CHORUS.file)
    monkeypatch.setenv(variable, str(cache))
    found = locate(name)
    assert found.path == path
    origin = found.origin()
    assert (origin.repository, origin.revision, origin.file) == (CHORUS.repository, COMMIT, CHORUS.file)
    assert (origin.bytes, origin.licence) == (7, "CC BY-SA 4.0")
    assert origin.sha256 == hashlib.sha256(b"weights").hexdigest()


def test_a_revision_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def download(repository: str, file: str, **options: Any) -> str:
        asked.append((repository, file, options["revision"]))
        return str(in_cache(tmp_path, repository, file))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert locate("hf:a/b@v1.2/deep/c.pth").revision == COMMIT
    assert asked == [("a/b", "deep/c.pth", "v1.2")]


def test_checkpoint_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_cache(tmp_path / "home" / "hub", CHORUS.repository, CHORUS.file)
    for name in (Path(CHORUS.file).name, "chorus-3dgs.pth", "scenesplat.pth"):
        monkeypatch.setenv(hub.CHECKPOINT_DIR, str(tmp_path / "mine"))
        own = tmp_path / "mine" / name
        own.parent.mkdir(exist_ok=True)
        own.write_bytes(b"x")
        assert locate("scenesplat" if "scenesplat" in name else "chorus-3dgs").path == own
        own.unlink()


def test_a_path_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("chorus-3dgs").write_bytes(b"x")
    assert locate("chorus-3dgs").path == Path("chorus-3dgs")
    assert locate(Path("chorus-3dgs")).repository == ""


def test_a_pushed_folder(tmp_path: Path) -> None:
    for file in ("config.json", "model.safetensors", "sub/config.json", "sub/model.safetensors"):
        path = in_cache(tmp_path / "home" / "hub", "me/student", file)
    assert locate("hf:me/student/sub").path == path.parent
    for name in ("hf:me/student", "hf:me/student/model.safetensors"):
        assert locate(name).path == path.parents[1]


def answer(kind: type[Exception]) -> Exception:
    """An error of the hub's client, without the response that only its own HTTP library can make."""
    return kind.__new__(kind)


@pytest.mark.parametrize(
    ("error", "name", "message"),
    [
        (answer(errors.GatedRepoError), "chorus-3dgs", "is gated: accept its terms on https.* `hf auth login`"),
        (answer(errors.RepositoryNotFoundError), "hf:a/b/c.pth", "no repository a/b on the hub, or it is private"),
        (answer(errors.RevisionNotFoundError), "hf:a/b@x/c.pth", "a/b has no revision 'x'"),
        (answer(errors.RemoteEntryNotFoundError), "hf:a/b/c.pth", "a/b holds no file c.pth"),
        (OSError("no route to host\nat all"), "hf:a/b/c.pth", "cannot fetch c.pth .*no route to host at all.*download"),
    ],
)
def test_refusals_of_the_hub(error: Exception, name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*arguments: Any, **options: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(WeightsError, match=f"^{name}: .*{message}") as caught:
        locate(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("chorus-3dgs", f"HF_HUB_OFFLINE is set: fetch {CHORUS.file} from .* put it as {CHORUS.file} into the folder"),
        ("hf:a/b/c.pth", "not in the hub's cache, and HF_HUB_OFFLINE is set"),
        ("chorus-3gs", "no published model; did you mean 'chorus-3dgs'"),
        ("some/file.pth", "no such file or folder$"),
        ("hf:a", "expected hf:OWNER/REPO"),
        ("hf:a/b@/c.pth", "expected hf:OWNER/REPO"),
        ("hf:a/b/../c.pth", "expected hf:OWNER/REPO"),
    ],
)
def test_what_cannot_be_had(name: str, message: str) -> None:
    with pytest.raises(WeightsError, match=f"^{name}: .*{message}"):
        locate(name)


def test_parts_of_a_name() -> None:
    assert parse_hub_name("hf:a/b/c/d.pth") == ("a/b", None, "c/d.pth")
    assert parse_hub_name("hf:a/b@main") == ("a/b", "main", "")
