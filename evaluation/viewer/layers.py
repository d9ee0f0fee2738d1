"""What the rows of a scene are coloured by: own colours, three numbers, classes, or a heat. Few bytes per row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.report.colours import class_palette, heat
from evaluation.viewer.packed_splats import deflated, differences

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

#: Levels of a channel of a colour made of features, and of a heat: the eye hardly tells more apart.
CHANNEL_LEVELS, HEAT_LEVELS = 24, 32


@dataclass(frozen=True, eq=False)
class Layer:
    """One way of colouring N rows.

    values: None = the splats' own colours; [N, 3] levels of a colour; [N] entries of `palette` [K, 3] in [0, 1].
    entries: (entry, name, share of the rows), for classes. ends: the values of the palette's ends, for a heat.
    """

    name: str
    note: str = ""
    values: NDArray[np.integer] | None = None
    palette: F32 | None = None
    entries: tuple[tuple[int, str, float], ...] = ()
    ends: tuple[float, float] | None = None

    def colors(self, own: F32) -> F32:
        """Colours [N, 3] in [0, 1] as the browser shows them; own [N, 3]: of the splats."""
        if self.values is None:
            return own
        if self.palette is None:
            return (self.values / (CHANNEL_LEVELS - 1)).astype(np.float32)
        return self.palette[self.values]

    def packed(self, order: I64) -> tuple[dict[str, Any], bytes]:
        """(header for JSON, deflated planes) with the rows in `order`; no bytes for the splats' own colours."""
        header: dict[str, Any] = {"name": self.name, "note": self.note}
        if self.values is None:
            return header, b""
        rows = self.values[order]
        if self.palette is None:
            header |= {"kind": "rgb", "levels": CHANNEL_LEVELS}
            return header, deflated([differences(channel) for channel in rows.T])
        header |= {"kind": "palette", "palette": np.rint(self.palette * 255).astype(int).tolist()}
        if self.entries:
            header["entries"] = [{"id": i, "name": name, "share": round(share, 6)} for i, name, share in self.entries]
        if self.ends is not None:
            header["range"] = [round(x, 4) for x in self.ends]
        planes = [(rows & 255).astype(np.uint8)]
        if len(self.palette) > 256:
            planes.append((rows >> 8).astype(np.uint8))
        return header, deflated(planes)


def rgb_layer(name: str, colors: F32, note: str = "") -> Layer:
    """Colours [N, 3] in [0, 1]."""
    return Layer(name, note, np.rint(np.clip(colors, 0, 1) * (CHANNEL_LEVELS - 1)).astype(np.int64))


def class_layer(name: str, classes: NDArray[np.integer], class_names: Sequence[str], note: str = "") -> Layer:
    """classes [N] of `class_names`, -1 = none. Only classes that occur are kept, the commonest first in the legend."""
    colours = class_palette(class_names)
    filled = np.where(classes < 0, len(class_names), classes)
    used, values, counts = np.unique(filled, return_inverse=True, return_counts=True)
    names = [*class_names, "none"]
    entries = [(int(i), names[used[i]], counts[i] / len(classes)) for i in np.argsort(-counts, kind="stable")]
    return Layer(name, note, values.reshape(-1), colours[used], tuple(entries))


def heat_layer(name: str, values: F32, low: float, high: float, note: str = "") -> Layer:
    """values [N], shown from `low` (blue) to `high` (red)."""
    scaled = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    palette = heat(np.linspace(0, 1, HEAT_LEVELS, dtype=np.float32), 0, 1)
    return Layer(name, note, np.rint(scaled * (HEAT_LEVELS - 1)).astype(np.int64), palette, ends=(low, high))
