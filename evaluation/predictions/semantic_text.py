"""ScanNet's submission format of semantic segmentation: `<scene id>.txt`, one label id per line and vertex.

Source: kaldir.vc.in.tum.de/scannet_benchmark/documentation and ScanNet BenchmarkScripts/util_3d.py (load_ids). Ids are
the benchmark's own (NYU40 ids for ScanNet20, raw ids for ScanNet200), 0 = no prediction. S3DIS has no such
format: its class indices are written, and -1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.atomic import write_bytes_atomically
from evaluation.predictions.ids import benchmark_ids


def write_semantic_text(path: Path, classes: NDArray[np.integer], label_space: str) -> None:
    """Write class indices [V] (-1 = none) in the file's vertex order."""
    lines = [f"{int(i)}\n".encode() for i in benchmark_ids(label_space)]  # class -1 takes the last
    write_bytes_atomically(path, b"".join(lines[c] for c in np.asarray(classes).tolist()))
