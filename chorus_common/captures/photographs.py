"""Photographs of posed views: which file belongs to which view, and what a pinhole of any size would have taken.

Nothing but colour is read; captures with depth are `Capture`s. Pictures are looked for where releases and tools keep
them, near the cameras.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from chorus_common.camera_io.picture_files import PICTURE_SUFFIXES
from chorus_common.camera_io.read import read_views
from chorus_common.camera_io.view import View
from chorus_common.captures.pictures import read_color, size_of
from chorus_common.captures.resample import KNOWN_SHARE, resample_color
from chorus_common.captures.undistort import undistort
from chorus_common.runtime.errors import SceneError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

#: Folders of pictures, relative to the cameras' folder and to those above it: COLMAP, nerfstudio, ScanNet (all frames,
#: and every n-th), ScanNet++ (DSLR: as taken, undistorted), Matterport3D, plain captures.
PLACES = (
    "", "images", "color", "color_interval", "rgb", "resized_images", "dslr/resized_images", "undistorted_images",
    "resized_undistorted_images", "undistorted_color_images", "image", "photos",
)  # fmt: skip
#: How many folders upwards from the cameras are looked into.
UPWARDS = 3
#: Views that are looked for in a folder before it is chosen.
_PROBES = 16
#: Largest relative difference between the aspects of a picture and of its camera.
_ASPECT = 0.01


@dataclass(frozen=True, eq=False)
class Photographs:
    """Views of a capture by name, and the picture of each that has one."""

    views: dict[str, View]
    paths: dict[str, Path]

    def picture(self, name: str, intrinsics: F64, width: int, height: int) -> tuple[F32, Bool]:
        """View `name` as a pinhole with `intrinsics` [3, 3] would have taken it: colour [height, width, 3] f32 in
        [0, 1], and which pixels [height, width] are known (the others are 0).

        Its lens is undone, and it is averaged to the new size. Raises SceneError naming the picture where it is
        missing, damaged, or of another shape than its camera's.
        """
        view = self.views[name]
        if name not in self.paths:
            raise SceneError(f"{view.file or name}: no such picture")
        path = self.paths[name]
        size = size_of(path)
        source = _at_size(path, view, size)
        picture = read_color(path, size)
        if not view.lens.bends:
            return resample_color(picture, source, intrinsics, width, height)
        color, known = undistort(picture, source, view.lens)
        with_share = np.concatenate([color, known[..., None].astype(np.float32)], axis=-1)
        found, inside = resample_color(with_share, source, intrinsics, width, height)
        share = found[..., 3]
        inside = inside & (share >= KNOWN_SHARE)
        values = np.where(inside[..., None], found[..., :3] / np.maximum(share, 1e-6)[..., None], 0)
        return values.astype(np.float32), inside

    def digest(self, names: Sequence[str]) -> str:
        """Hash of what the pictures of `names` are as far as their directory tells (file names and sizes), and of their
        lenses: looking whether a scene is done must not read gigabytes.
        """
        parts: list[object] = []
        for name in names:
            path = self.paths.get(name)
            size = path.stat().st_size if path is not None and path.exists() else -1
            parts.append([name, "" if path is None else path.name, size, self.views[name].lens.as_list()])
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read_photographs(cameras: Path, folder: str = "") -> Photographs:
    """The photographs of the cameras at `cameras` (what `read_cameras` takes).

    folder: where the pictures lie, relative to the cameras' folder; "" looks in the usual places. Raises SceneError
    where the folder is missing or holds none of the pictures.
    """
    place, views = read_views(cameras)
    found = _in_folder(place / folder, views) if folder else _in_usual_places(place, views)
    if not found:
        where = place / folder if folder else f"{place} and the folders above it"
        raise SceneError(
            f"{where}: holds no picture of the {len(views)} views (first: {views[0].file or views[0].name}); "
            "photo_folder says where they are"
        )
    return Photographs({view.name: view for view in views}, found)


def _at_size(path: Path, view: View, size: tuple[int, int]) -> F64:
    """Intrinsics in pixels of the picture: many are shrunk after their camera was calibrated."""
    across, down = size[0] / view.width, size[1] / view.height
    if abs(across / down - 1) > _ASPECT:
        raise SceneError(
            f"{path}: is {size[0]}x{size[1]}, its camera {view.width}x{view.height}; is it turned, or another's?"
        )
    return np.asarray(view.intrinsics * np.array([[across], [down], [1.0]]), np.float64)


def _in_usual_places(place: Path, views: Sequence[View]) -> dict[str, Path]:
    """The pictures of the folder that holds most of a few views; the nearest one of several."""
    step = max(1, len(views) // _PROBES)
    probes = views[::step][:_PROBES]
    best: tuple[int, Path | None] = (0, None)
    bent = any(view.lens.bends for view in probes)
    for folder in _candidates(place):
        if bent and "undistorted" in folder.name:  # the lens of these pictures was undone by another program
            continue
        count = len(_in_folder(folder, probes))
        if count > best[0]:
            best = (count, folder)
        if count == len(probes):
            break
    return {} if best[1] is None else _in_folder(best[1], views)


def _candidates(place: Path) -> Iterator[Path]:
    roots = [place, *list(place.resolve().parents)[:UPWARDS]]
    for root in roots:
        for name in PLACES:
            if (root / name).is_dir():
                yield root / name


def _in_folder(folder: Path, views: Sequence[View]) -> dict[str, Path]:
    """Pictures of the views in `folder`: by the path that the camera file names, by its last part, or by name."""
    if not folder.is_dir():
        return {}
    stems = {
        path.stem: path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")
    }
    found = {}
    for view in views:
        declared = PurePosixPath((view.file or view.name).replace("\\", "/"))
        exact = [folder / part for part in (declared, declared.name) if not PurePosixPath(part).is_absolute()]
        path = next((p for p in exact if p.suffix.lower() in PICTURE_SUFFIXES and p.is_file()), None)
        path = path or stems.get(declared.stem) or stems.get(declared.name) or stems.get(view.name)
        if path is not None:
            found[view.name] = path
    return found
