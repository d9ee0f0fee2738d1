"""Posed RGB-D captures: colour and depth pictures with cameras. `read_capture(path)` picks the reader."""

from chorus_common.captures.capture import Capture, Frame
from chorus_common.captures.read import read_capture

__all__ = ["Capture", "Frame", "read_capture"]
