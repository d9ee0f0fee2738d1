"""What `chorus-data prepare` is told: which release lies where, and what is kept of it. One TOML per data set in
data_manifests/releases/.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from chorus_common.labels import SPACES
from chorus_common.runtime.config import Config
from chorus_common.scene_io import MAX_GAUSSIANS, PointCloudOptions

#: split -> file of scene ids (looked for in the release, then in data_manifests/splits), or the ids themselves.
SplitLists = dict[str, str | list[str]]

#: A scene is called by its file's or folder's own name, or by its whole path below the root.
SceneIds = Literal["name", "path"]


class ScannetRelease(Config):
    """ScanNet as its owners hand it out: scans/<id>/ with mesh, segments and objects, scans_test/<id>/ without."""

    #: Which reader the release is for.
    layout: Literal["scannet"]
    #: split -> folder with the scans of that split.
    folders: dict[str, str] = Field(default={"train": "scans", "val": "scans", "test": "scans_test"})
    #: split -> file of scene ids, or the ids themselves.
    split_lists: SplitLists = Field(default={split: f"scannetv2_{split}.txt" for split in ("train", "val", "test")})
    #: Splits that come without annotations.
    unlabelled: list[str] = Field(default=["test"])
    #: From raw category to NYU40 and ScanNet200 ids.
    label_table: str = "scannetv2-labels.combined.tsv"
    #: Objects whose raw category is not in the table: the scene fails, or they count as unlabelled.
    unknown_category: Literal["fail", "ignore"] = "fail"


class ScannetppRelease(Config):
    """ScanNet++ as its owners hand it out: data/<id>/ with scans/ (mesh, segments, objects) and dslr/colmap/."""

    #: Which reader the release is for.
    layout: Literal["scannetpp"]
    #: split -> folder with the scenes of that split, where it is not data/.
    folders: dict[str, str] = Field(default={"test": "sem_test"})
    #: split -> file of scene ids, or the ids themselves.
    split_lists: SplitLists = Field(default={split: f"splits/nvs_sem_{split}.txt" for split in ("train", "val")})
    #: Splits that come without annotations.
    unlabelled: list[str] = Field(default=["test"])
    #: From annotators' classes to those of the benchmark.
    label_table: str = "metadata/semantic_benchmark/map_benchmark.csv"


class MatterportRelease(Config):
    """Matterport3D as its owners hand it out: v1/scans/<house>/ with region_segmentations/, house_segmentations/ and
    undistorted_camera_parameters/.
    """

    #: Which reader the release is for.
    layout: Literal["matterport3d"]
    #: Folder of the houses below the root; "" = the root itself.
    folder: str = "v1/scans"
    #: What a scene is: a region of a house (its mesh in region_segmentations), or a house (in house_segmentations).
    unit: Literal["region", "house"] = "region"
    #: split -> file of house ids, or the ids themselves.
    split_lists: SplitLists = Field(default={split: f"matterport3d_{split}.txt" for split in ("train", "val", "test")})
    #: From annotators' categories to NYU40, the 160 classes and the release's own 40.
    label_table: str = "metadata/category_mapping.tsv"


class S3disRelease(Config):
    """Stanford3dDataset_v1.2: Area_k/<room>/Annotations/<class>_<n>.txt."""

    #: Which reader the release is for.
    layout: Literal["s3dis"]
    #: Folder of the areas below the root; "" = the root itself.
    folder: str = "Stanford3dDataset_v1.2"
    #: Area whose rooms are the val split; all others are train.
    held_out: str = "Area_5"
    #: Turn each room by the angle of its area's alignment file, so that walls run along the axes.
    align: bool = False


class SceneSplatFolders(Config):
    """SceneSplat's Gaussians: <split>/<scene>/{coord,color,opacity,scale,quat,...}.npy, with pc_*.npy where present."""

    #: Which reader the release is for.
    layout: Literal["scenesplat"]
    #: split -> pattern of the scenes' folders ({scene_id} marks the id).
    scenes: dict[str, str] = Field(default={split: f"{split}/*" for split in ("train", "val", "test")})
    #: split -> file of scene ids, or the ids themselves.
    split_lists: SplitLists = Field(default={})


class PointceptFolders(Config):
    """Pointcept's preprocessed points: <split>/<scene>/{coord,color,normal,segment*,instance}.npy."""

    #: Which reader the release is for.
    layout: Literal["pointcept"]
    #: split -> pattern of the scenes' folders ({scene_id} marks the id).
    scenes: dict[str, str] = Field(default={split: f"{split}/*" for split in ("train", "val", "test")})
    #: split -> file of scene ids, or the ids themselves.
    split_lists: SplitLists = Field(default={})
    #: A scene is called by its folder's own name, or by its whole path below the root.
    scene_ids: SceneIds = "name"


class PointTables(Config):
    """One .npy table of points per scene with its labels in .npy files beside it."""

    #: Which reader the release is for.
    layout: Literal["point-tables"]
    #: split -> pattern of the table [M, >= 6] (x, y, z, r, g, b), with {scene_id} once.
    scenes: dict[str, str]
    #: split -> file of scene ids, or the ids themselves.
    split_lists: SplitLists = Field(default={})
    #: File of the labels beside the table, with {scene_id}; "" = none.
    labels: str = ""
    #: What the labels are: class indices of the label space, or ids of the release ("nyu40id", "scannet-id").
    label_ids: Literal["index", "nyu40id", "scannet-id"] = "index"
    #: File of the instance ids beside the table, with {scene_id}; "" = none.
    instances: str = ""
    #: Instance id that means "none".
    no_instance: int = -1


Release = Annotated[
    ScannetRelease
    | ScannetppRelease
    | MatterportRelease
    | S3disRelease
    | SceneSplatFolders
    | PointceptFolders
    | PointTables,
    Field(discriminator="layout"),
]


class TrainedGaussians(Config):
    """Gaussians trained elsewhere, which take the place of those made from the points."""

    #: Path of a scene's Gaussians with {scene_id} (and {split}), absolute or below the root; "" = none were trained.
    path: str = ""
    #: Gaussians further than this outside the points' bounding box are dropped, in metres.
    margin: float = Field(default=0.25, ge=0)
    #: A Gaussian takes the label of its nearest point up to this distance in metres; beyond it has none.
    reach: float = Field(default=0.25, gt=0)
    #: Scenes with more trained Gaussians are refused.
    max_gaussians: int = Field(default=MAX_GAUSSIANS, ge=1)
    #: Level of streamed scenes, 0 the finest.
    lod: int = Field(default=0, ge=0)


class PrepareConfig(Config):
    """One data set to prepare."""

    #: Name of the data set, a plain word.
    name: str
    #: Where the release's files lie.
    release: Release
    #: Label spaces to write; the manifest names the first.
    label_spaces: list[str] = Field(min_length=1)
    #: Side of the cells of which each keeps one point as a Gaussian, in metres; 0 = every point becomes one. The points
    #: to score are always kept in full.
    grid: float = Field(default=0.0, ge=0, le=1)
    gaussians: TrainedGaussians = TrainedGaussians()
    #: How points become Gaussians.
    points: PointCloudOptions = PointCloudOptions()
    #: Splits to prepare; empty = all.
    splits: list[str] = Field(default=[])

    @model_validator(mode="after")
    def _known_spaces(self) -> PrepareConfig:
        for space in self.label_spaces:
            if space not in SPACES:
                raise ValueError(f"unknown label space '{space}'; known: {', '.join(SPACES)}")
        files = [SPACES[space].file for space in self.label_spaces]
        if len(set(files)) < len(files):
            raise ValueError(f"label spaces {', '.join(self.label_spaces)} would share one file")
        return self
