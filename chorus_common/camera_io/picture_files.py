"""Picture files beside cameras: which there are, and how large each is, from its header."""

from __future__ import annotations

from pathlib import Path

from chorus_common.runtime.errors import SceneError

#: What cameras and scanners write.
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
#: Pictures of a folder that are opened in search of one whose size can be read.
_TRIES = 8


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height from the file's header. Raises SceneError where it is no readable picture."""
    from PIL import Image  # here: programs that read no picture start without it

    try:
        with Image.open(path) as image:
            return image.size
    except FileNotFoundError:
        raise SceneError(f"{path}: no such picture") from None
    except Exception as error:  # damaged headers raise a dozen types
        raise SceneError(f"{path}: not a readable picture ({' '.join(str(error).split())[:100]})") from None


def find_pictures(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Files of `folder` by name without suffix, hidden ones left out; SceneError where two share a name or the folder
    is missing.
    """
    if not folder.is_dir():
        raise SceneError(f"{folder}: no such folder; a capture has its pictures in color/ and depth/")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.stem in found:
            raise SceneError(f"{path}: has the same name as {found[path.stem].name}; keep one of them")
        found[path.stem] = path
    return found


def first_size(folder: Path) -> tuple[int, int] | None:
    """Size of the first readable picture in `folder`; None where it holds none or does not exist.

    Raises SceneError where there are pictures and none can be read: a guess would be a silent one.
    """
    if not folder.is_dir():
        return None
    problem: SceneError | None = None
    files = (f for f in sorted(folder.iterdir()) if f.suffix.lower() in PICTURE_SUFFIXES and not f.name.startswith("."))
    for tried, file in enumerate(files):
        if tried == _TRIES:
            break
        try:
            return picture_size(file)
        except SceneError as error:
            problem = problem or error
    if problem is not None:
        raise problem
    return None
