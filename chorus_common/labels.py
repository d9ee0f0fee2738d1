"""Class names of the benchmarks, in benchmark order. Facts, checked in once; nobody keeps a second list."""

from __future__ import annotations

#: ScanNet20 (ids 1-12, 14, 16, 24, 28, 33, 34, 36, 39 of NYU40), in ascending NYU40 order.
SCANNET20 = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture",
    "counter", "desk", "curtain", "refrigerator", "shower curtain", "toilet", "sink", "bathtub", "other furniture",
)  # fmt: skip
SCANNET20_NYU40_IDS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 24, 28, 33, 34, 36, 39)

#: S3DIS, in the order of its benchmark code.
S3DIS13 = (
    "ceiling",
    "floor",
    "wall",
    "beam",
    "column",
    "window",
    "door",
    "table",
    "chair",
    "sofa",
    "bookcase",
    "board",
    "clutter",
)

#: Classes that f-mIoU and f-mAcc leave out of the mean (SceneSplat; never out of the data).
FOREGROUND_EXCLUDED = ("wall", "floor", "ceiling")

LABEL_SPACES: dict[str, tuple[str, ...]] = {"scannet20": SCANNET20, "s3dis13": S3DIS13}
