"""`read_capture`: which reader a folder needs."""

from __future__ import annotations

from pathlib import Path

from chorus_common.captures.capture import MILLIMETRE, Capture
from chorus_common.captures.folder import is_plain_capture, read_plain_capture
from chorus_common.captures.scannet import is_scannet_capture, read_scannet_capture
from chorus_common.runtime.errors import SceneError


def read_capture(path: str | Path, *, every: int = 1, depth_unit: float = MILLIMETRE) -> Capture:
    """The posed RGB-D capture at `path`: a ScanNet export (scannet.py) or a plain folder (folder.py).

    Args:
        every: take every so manyth frame. depth_unit: metres per count of integer depth pictures.

    Raises SceneError: one line that names the file and what is wrong with it.
    """
    path = Path(path)
    if not path.is_dir():
        raise SceneError(f"{path}: no such folder")
    if is_scannet_capture(path):
        return read_scannet_capture(path, every=every, depth_unit=depth_unit)
    if is_plain_capture(path):
        return read_plain_capture(path, every=every, depth_unit=depth_unit)
    raise SceneError(
        f"{path}: not a posed RGB-D capture; expected color/ and depth/ with pose/ and intrinsic/ (ScanNet's export), "
        "intrinsics.txt and pose/, or transforms.json"
    )
