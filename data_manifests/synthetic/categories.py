"""Raw ScanNet categories of our objects: names and ids as in ScanNet's own table, and what S3DIS would call them.

ScanNet20 decides our labels: an object has the ScanNet20 class that its raw category has through the NYU40 id. Lamps,
screens, plants, boxes and the like map to NYU40 classes outside the twenty and are therefore unlabelled here (-1),
exactly as in the benchmark; "other furniture" is what NYU40 calls otherfurniture: bins, benches, ladders, radiators,
wardrobes, ...
"""

from __future__ import annotations

from dataclasses import dataclass

from chorus_common.labels import SCANNET20_NYU40_IDS


@dataclass(frozen=True)
class Category:
    """A row of scannetv2-labels.combined.tsv."""

    id: int
    raw: str
    category: str
    nyu40_id: int
    nyu40_class: str

    @property
    def scannet20(self) -> int:
        """Index in SCANNET20, or -1."""
        return SCANNET20_NYU40_IDS.index(self.nyu40_id) if self.nyu40_id in SCANNET20_NYU40_IDS else -1


# fmt: off
CATEGORIES: dict[str, Category] = {row[1]: Category(*row) for row in (
    (1, "wall", "wall", 1, "wall"),
    (3, "floor", "floor", 2, "floor"),
    (41, "ceiling", "ceiling", 22, "ceiling"),
    (5, "door", "door", 8, "door"),
    (16, "window", "window", 9, "window"),
    (21, "curtain", "curtain", 16, "curtain"),
    (21, "curtains", "curtain", 16, "curtain"),
    (15, "picture", "picture", 11, "picture"),
    (1218, "painting", "painting", 11, "picture"),
    (1188, "poster", "poster", 11, "picture"),
    (52, "whiteboard", "whiteboard", 30, "whiteboard"),
    (71, "mirror", "mirror", 19, "mirror"),
    (96, "radiator", "radiator", 39, "otherfurniture"),
    (1168, "ceiling light", "ceiling light", 38, "otherstructure"),
    (2, "chair", "chair", 5, "chair"),
    (10, "office chair", "office chair", 5, "chair"),
    (23, "armchair", "armchair", 5, "chair"),
    (6, "couch", "couch", 6, "sofa"),
    (1313, "sofa", "sofa", 6, "sofa"),
    (68, "bench", "bench", 39, "otherfurniture"),
    (67, "ottoman", "ottoman", 39, "otherfurniture"),
    (4, "table", "table", 7, "table"),
    (45, "dining table", "dining table", 7, "table"),
    (24, "coffee table", "coffee table", 7, "table"),
    (44, "end table", "end table", 7, "table"),
    (222, "side table", "side table", 7, "table"),
    (108, "round table", "round table", 7, "table"),
    (9, "desk", "desk", 14, "desk"),
    (34, "nightstand", "nightstand", 32, "night stand"),
    (159, "kitchen counter", "kitchen counter", 12, "counter"),
    (1156, "bathroom counter", "bathroom counter", 12, "counter"),
    (7, "cabinet", "cabinet", 3, "cabinet"),
    (75, "file cabinet", "file cabinet", 3, "cabinet"),
    (29, "kitchen cabinet", "kitchen cabinet", 3, "cabinet"),
    (1164, "bathroom vanity", "bathroom vanity", 3, "cabinet"),
    (18, "bookshelf", "bookshelf", 10, "bookshelf"),
    (8, "shelf", "shelf", 15, "shelves"),
    (99, "wardrobe", "wardrobe", 39, "otherfurniture"),
    (51, "tv stand", "tv stand", 39, "otherfurniture"),
    (27, "refrigerator", "refrigerator", 24, "refridgerator"),
    (165, "mini fridge", "mini fridge", 24, "refridgerator"),
    (11, "bed", "bed", 4, "bed"),
    (17, "toilet", "toilet", 33, "toilet"),
    (14, "sink", "sink", 34, "sink"),
    (42, "bathtub", "bathtub", 36, "bathtub"),
    (55, "shower curtain", "shower curtain", 28, "shower curtain"),
    (70, "washing machine", "washing machine", 39, "otherfurniture"),
    (56, "trash can", "trash can", 39, "otherfurniture"),
    (97, "recycling bin", "recycling bin", 39, "otherfurniture"),
    (233, "crate", "crate", 39, "otherfurniture"),
    (122, "ladder", "ladder", 39, "otherfurniture"),
    (1242, "clothing rack", "clothing rack", 39, "otherfurniture"),
    (177, "water cooler", "water cooler", 39, "otherfurniture"),
    (28, "lamp", "lamp", 35, "lamp"),
    (28, "table lamp", "lamp", 35, "lamp"),
    (1189, "potted plant", "potted plant", 40, "otherprop"),
    (26, "box", "box", 29, "box"),
    (48, "backpack", "backpack", 40, "otherprop"),
    (19, "monitor", "monitor", 40, "otherprop"),
    (33, "tv", "tv", 25, "television"),
    (46, "keyboard", "keyboard", 40, "otherprop"),
    (77, "laptop", "laptop", 40, "otherprop"),
    (22, "books", "book", 23, "books"),
    (194, "vase", "vase", 40, "otherprop"),
    (59, "microwave", "microwave", 40, "otherprop"),
)}
# fmt: on

#: S3DIS class per raw category where it is not "clutter".
S3DIS_OF: dict[str, str] = {
    "wall": "wall", "floor": "floor", "ceiling": "ceiling", "door": "door", "window": "window", "whiteboard": "board",
    "chair": "chair", "office chair": "chair", "armchair": "chair", "couch": "sofa", "sofa": "sofa",
    "bookshelf": "bookcase",
    "table": "table", "dining table": "table", "coffee table": "table", "end table": "table", "side table": "table",
    "round table": "table",
    "desk": "table",
}  # fmt: skip

#: The columns of ScanNet's table, in its order.
TSV_COLUMNS = (
    "id", "raw_category", "category", "count", "nyu40id", "eigen13id", "nyuClass", "nyu40class", "eigen13class",
    "ModelNet40", "ModelNet10",
    "ShapeNetCore55", "synsetoffset", "wnsynsetid", "wnsynsetkey", "mpcat40", "mpcat40index",
)  # fmt: skip


def labels_tsv() -> bytes:
    """Our rows of the table with ScanNet's columns and its odd line ends (CR CR LF); columns that nobody reads stay
    empty.
    """
    lines = ["\t".join(TSV_COLUMNS)]
    for c in CATEGORIES.values():
        known = {
            "id": str(c.id), "raw_category": c.raw, "category": c.category, "count": "1", "nyu40id": str(c.nyu40_id),
            "nyu40class": c.nyu40_class,
        }  # fmt: skip
        lines.append("\t".join(known.get(column, "") for column in TSV_COLUMNS))
    return ("\r\r\n".join(lines) + "\r\r\n").encode("utf-8")
