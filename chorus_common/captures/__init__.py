"""Posed RGB-D captures: colour and depth pictures with cameras. `read_capture(path)` picks the reader."""

from typing import TYPE_CHECKING

from chorus_common.runtime.lazy import lazy_exports

if TYPE_CHECKING:
    from chorus_common.captures.capture import Capture, Frame
    from chorus_common.captures.read import read_capture

__all__ = ["Capture", "Frame", "read_capture"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "chorus_common.captures.capture": ("Capture", "Frame"),
        "chorus_common.captures.read": ("read_capture",),
    },
)
