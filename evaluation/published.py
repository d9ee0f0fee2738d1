"""Published numbers, to be read beside ours. Facts with their source; in per cent, as they were printed.

Protocols differ between papers and from ours: `note` says what is known. Nothing here enters a computation.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One printed number: what was measured (task, data set, metric), of which method, and where it stands."""

    task: str
    dataset: str
    metric: str
    method: str
    percent: float
    source: str
    note: str = ""


_CHORUS = "Chorus, CVPR 2026, arXiv 2512.17817"
_LISTING = "third-party listing of arXiv 2512.17817, not the paper itself"
_GC = "GaussianCross, project page"
_PTV3 = "Pointcept model zoo"
_SONATA = "Pointcept issue #499 (numbers quoted from the paper)"
_LITEPT = "LitePT README"


def _rows(
    task: str,
    source: str,
    columns: tuple[tuple[str, str], ...],
    methods: dict[str, tuple[float | None, ...]],
    note: str,
) -> tuple[Published, ...]:
    """A printed table: columns are (data set, metric), one line per method; None = not printed."""
    return tuple(
        Published(task, dataset, metric, method, value, source, note)
        for method, values in methods.items()
        for (dataset, metric), value in zip(columns, values)
        if value is not None
    )


PUBLISHED: tuple[Published, ...] = (
    Published("zero-shot", "scannet200", "f_miou", "Chorus", 24.6, _CHORUS, "without wall, floor, ceiling"),
    Published("zero-shot", "scannet200", "f_miou", "SceneSplat", 22.5, _CHORUS, "without wall, floor, ceiling"),
    Published("zero-shot", "matterport160", "f_miou", "Chorus", 18.7, _CHORUS, "without wall, floor, ceiling"),
    Published("zero-shot", "matterport160", "f_miou", "SceneSplat", 14.0, _CHORUS, "without wall, floor, ceiling"),
    Published("zero-shot", "scannetpp100", "f_miou", "Chorus, language teacher", 27.1, _CHORUS, "teacher ablation"),
    Published("zero-shot", "scannetpp100", "f_miou", "Chorus, + DINO", 29.4, _CHORUS, "teacher ablation"),
    Published("zero-shot", "scannetpp100", "f_miou", "Chorus, + PE-Spatial", 29.6, _CHORUS, "teacher ablation"),
    Published("instances", "scannet200", "ap", "Chorus", 19.6, _CHORUS, "proposals of Mask3D, pooled features"),
    Published("instances", "scannet200", "ap_tail", "Chorus", 13.0, _CHORUS, "proposals of Mask3D, pooled features"),
    Published("instances", "scannet200", "ap", "Mosaic3D", 17.8, _CHORUS, "proposals of Mask3D"),
    Published("instances", "scannet200", "ap_tail", "Mosaic3D", 5.4, _CHORUS, "proposals of Mask3D"),
    Published("finetune linear", "scannet200", "miou", "Chorus", 36.0, _CHORUS, "point-cloud variant"),
    Published("finetune linear", "scannet200", "miou", "Sonata", 28.8, _CHORUS, "frozen parts in train mode"),
    Published("finetune full", "scannet20", "miou", "Chorus", 79.4, _LISTING),
    Published("finetune full", "scannet200", "miou", "Chorus", 40.9, _LISTING),
    Published("finetune full instance", "scannet20", "ap50", "Chorus", 63.4, _LISTING),
    Published("finetune full instance", "scannet200", "ap50", "Chorus", 33.7, _LISTING),
    Published("finetune full, 1 % of scenes", "scannet20", "miou", "Chorus", 42.0, _CHORUS),
    Published("finetune full, 1 % of scenes", "scannet20", "miou", "Sonata", 45.3, _CHORUS),
    Published("finetune full, 20 % of scenes", "scannet20", "miou", "Chorus", 71.3, _CHORUS),
    Published("finetune full, 20 % of scenes", "scannet20", "miou", "Sonata", 69.8, _CHORUS),
    Published("finetune full", "scannet20", "miou", "PTv3 from scratch", 77.6, _PTV3, "13 test-time views"),
    Published("finetune full", "scannet200", "miou", "PTv3 from scratch", 35.3, _PTV3, "13 test-time views"),
    Published("finetune full", "s3dis13 Area 5", "miou", "PTv3 from scratch", 73.6, _PTV3, "13 test-time views"),
    *_rows(
        "finetune linear instance", _SONATA, (("scannet20", "ap"), ("scannet20", "ap50"), ("scannet20", "ap25")),
        {"Sonata": (30.7, 53.9, 72.6)}, "order of the three by magnitude",
    ),
    *_rows(
        "finetune full instance", _LITEPT,
        (("scannet20", "ap25"), ("scannet20", "ap50"), ("scannet20", "ap"),
         ("scannet200", "ap25"), ("scannet200", "ap50"), ("scannet200", "ap")),
        {"LitePT-S*": (78.5, 64.9, 41.7, 40.3, 33.1, 22.2)}, "from scratch",
    ),
    *_rows(
        "finetune full", _GC,
        (("scannet20", "miou"), ("scannet200", "miou"), ("s3dis13 Area 5", "miou"), ("s3dis13 6-fold", "miou")),
        {
            "SpUNet from scratch": (72.2, 25.0, 66.3, 72.4),
            "CSC": (73.8, 26.4, 70.7, 75.5),
            "PointContrast": (74.1, 26.2, 70.3, 74.7),
            "MSC": (75.5, 32.0, 70.7, None),
            "GroupContrast": (75.7, 30.0, 72.0, None),
            "PPT unsupervised": (75.8, 30.4, 71.9, None),
            "PonderV2": (77.0, 32.3, 73.2, 79.9),
            "GaussianCross": (76.0, 34.3, 72.1, 76.8),
        },
        "SpUNet, 13 test-time views",
    ),
    *_rows(
        "finetune linear", _GC,
        (("scannet20", "miou"), ("scannet20", "macc"), ("scannet200", "miou"), ("scannet200", "macc"),
         ("s3dis13 Area 5", "miou"), ("s3dis13 Area 5", "macc"), ("s3dis13 6-fold", "miou"),
         ("s3dis13 6-fold", "macc")),
        {
            "PointContrast": (5.6, 9.7, 0.5, 0.9, 11.4, 18.6, 11.7, 19.0),
            "CSC": (12.6, 18.1, 1.3, 2.1, 24.4, 32.0, 24.9, 32.5),
            "MSC": (14.1, 20.3, 1.5, 2.5, 27.9, 35.5, 29.9, 37.9),
            "GaussianCross": (23.3, 30.9, 3.6, 5.3, 34.7, 44.1, 35.9, 45.5),
        },
        "SpUNet; BatchNorm of the frozen part in train mode (freeze = published)",
    ),
    *(
        row
        for share, values in {
            "1 % of scenes": (26.0, 28.9, 29.2, 30.7, 31.3, 32.1),
            "5 % of scenes": (47.8, 49.8, 50.7, 52.9, 52.3, 53.5),
            "10 % of scenes": (56.7, 59.4, 61.0, 62.0, 62.8, 64.2),
            "20 % of scenes": (62.9, 64.6, 64.9, 66.5, 66.4, 67.3),
            "20 points": (41.9, 55.5, 60.1, 61.2, 60.6, 61.7),
            "50 points": (53.9, 60.5, 66.8, 67.3, 67.5, 68.5),
            "100 points": (62.2, 65.9, 69.7, 70.3, 70.8, 72.2),
            "200 points": (65.5, 68.2, 70.7, 71.8, 72.2, 73.3),
        }.items()
        for row in _rows(
            f"finetune full, {share}", _GC, (("scannet20", "miou"),),
            {
                method: (value,)
                for method, value in zip(
                    ("SpUNet from scratch", "CSC", "MSC", "GroupContrast", "PPT", "GaussianCross"), values
                )
            },
            "official lists",
        )
    ),
    *_rows(
        "finetune full instance", _GC,
        (("scannet20", "ap25"), ("scannet20", "ap50"), ("scannet20", "ap"),
         ("scannet200", "ap25"), ("scannet200", "ap50"), ("scannet200", "ap")),
        {
            "SpUNet from scratch": (72.8, 56.9, 36.0, 32.2, 24.5, 15.8),
            "MSC": (74.7, 59.6, 39.3, 34.3, 26.8, 17.3),
            "GroupContrast": (None, 62.3, None, None, 27.5, None),
            "GaussianCross": (77.0, 62.7, 40.8, 38.4, 30.6, 20.6),
        },
        "PointGroup on SpUNet",
    ),
)  # fmt: skip


def published_for(label_space: str) -> list[Published]:
    """The numbers printed for a label space, S3DIS's areas and folds included."""
    return [p for p in PUBLISHED if p.dataset.split(" ")[0] == label_space]
