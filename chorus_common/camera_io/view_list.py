"""Lists of the views of a capture that are to be used: `lang_feat_selected_imgs.json` of SceneSplat and Chorus.

    {"frames_list": ["DSC00012.JPG", ...]}   or   {"frames": [{"file_path": "DSC00012.JPG", ...}, ...]}   or a list

The file lies in the scan's folder (ScanNet, Matterport3D) or in dslr/nerfstudio (ScanNet++).
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from chorus_common.camera_io.view import read_json
from chorus_common.cameras import CameraSet
from chorus_common.runtime.errors import SceneError

VIEW_LIST = "lang_feat_selected_imgs.json"
_PLACES = ("", "nerfstudio", "dslr/nerfstudio")
#: How many folders upwards from the cameras are looked into: COLMAP's models lie two below the scene.
_UPWARDS = 2


def find_view_list(cameras: Path, name: str = VIEW_LIST) -> Path | None:
    """The list of that name near the cameras at `cameras`, or None."""
    folder = cameras if cameras.is_dir() else cameras.parent
    for root in [folder, *list(folder.resolve().parents)[:_UPWARDS]]:
        for place in _PLACES:
            if (root / place / name).is_file():
                return root / place / name
    return None


def read_view_list(path: Path) -> tuple[str, ...]:
    """Names of pictures, as the file has them. Raises SceneError for a file that is no such list."""
    data = read_json(path)
    if isinstance(data, dict):
        data = data.get("frames_list", data.get("frames"))
    if not isinstance(data, list) or not data:
        raise SceneError(f"{path}: lists no views (frames_list, or frames with file_path)")
    names = []
    for entry in data:
        name = entry.get("file_path") if isinstance(entry, dict) else entry
        if not isinstance(name, str) or not name:
            raise SceneError(f"{path}: an entry of its list names no picture")
        names.append(name)
    return tuple(names)


def listed_views(cameras: CameraSet, path: Path) -> CameraSet:
    """The cameras that the list at `path` names, in their own order; folders and suffixes do not matter.

    Raises SceneError where it names none of them.
    """
    wanted = {_stem(name) for name in read_view_list(path)}
    rows = [i for i, name in enumerate(cameras.names) if _stem(name) in wanted]
    if not rows:
        raise SceneError(f"{path}: names none of the {len(cameras)} views (the first is {cameras.names[0]})")
    return cameras.select(np.array(rows))


def _stem(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).stem if "." in name else PurePosixPath(name.replace("\\", "/")).name
