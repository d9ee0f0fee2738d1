"""What a metric needs from every scene, in one Parquet file beside a result: counts, matches and sums, never scores.

From them any mean over any set of scenes can be recomputed exactly: the union over the folds of a cross validation, a
bootstrap over scenes, another definition. A scene of ScanNet200 takes a few kilobytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chorus_common.runtime.atomic import atomic_path
from chorus_common.runtime.errors import ConfigError
from evaluation.metrics.instance import InstanceEvaluator, SceneMatches
from evaluation.metrics.retrieval import FIGURES, QuerySums
from evaluation.metrics.semantic import ConfusionMatrix

_MATCHES = tuple(f.name for f in fields(SceneMatches))
_SCHEMA = pa.schema(
    [pa.field("row", pa.string()), pa.field("scene", pa.string()), pa.field("counts", pa.list_(pa.int64()))]
    + [pa.field(name, pa.list_(pa.float64() if name == "pred_score" else pa.int64())) for name in _MATCHES]
    + [pa.field("perturbations", pa.list_(pa.string())), pa.field("n_queries", pa.list_(pa.int64()))]
    + [pa.field("query_sums", pa.list_(pa.float64()))]  # [perturbations, 4], flat
)
_META = b"chorus_scene_scores"
#: What a result may hold of every row and scene.
KINDS = ("semantic", "instances", "retrieval")


@dataclass
class SceneScores:
    """Counts of a result: row name -> scene name -> confusion matrix, and the same for instance matches and for sums of
    retrieval figures by perturbation.

    class_names: of the matrices; thing_names: of the matches; groups: head, common, tail where the space has them;
    min_region: of the matches, in vertices; gallery: what queries searched.
    """

    class_names: tuple[str, ...]
    thing_names: tuple[str, ...] = ()
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    min_region: int = 100
    gallery: str = ""
    semantic: dict[str, dict[str, ConfusionMatrix]] = field(default_factory=dict)
    instances: dict[str, dict[str, SceneMatches]] = field(default_factory=dict)
    retrieval: dict[str, dict[str, dict[str, QuerySums]]] = field(default_factory=dict)

    def matrix(self, entries: Any = None) -> ConfusionMatrix:
        """An empty matrix of these classes, or one with `entries` = (truth, predicted, count) triples, flat."""
        matrix = ConfusionMatrix(self.class_names, groups=self.groups)
        if entries is not None:
            truth, predicted, count = np.asarray(entries, dtype=np.int64).reshape(-1, 3).T
            matrix.counts[truth, predicted] = count
        return matrix

    def total(self, row: str, scenes: Iterable[str] | None = None) -> ConfusionMatrix:
        """The union over `scenes` (None: all; a name may repeat) of the confusion matrices of `row`."""
        matrix = self.matrix()
        for name in self.semantic[row] if scenes is None else scenes:
            matrix.counts += self.semantic[row][name].counts
        return matrix

    def evaluator(self, row: str, scenes: Iterable[str] | None = None) -> InstanceEvaluator:
        """An evaluator that has counted `scenes` (None: all; a name may repeat) of `row`."""
        evaluator = InstanceEvaluator(self.thing_names, min_region_size=self.min_region, groups=self.groups)
        evaluator.scenes += [self.instances[row][name] for name in (self.instances[row] if scenes is None else scenes)]
        return evaluator

    def per_scene(self) -> dict[str, dict[str, Any]]:
        """scene -> row -> the means of that scene alone: of its matrix, and of its matches."""
        found: dict[str, dict[str, Any]] = {}
        for row, scenes in self.semantic.items():
            for scene, matrix in scenes.items():
                values = matrix.scores().as_dict()
                found.setdefault(scene, {})[row] = {key: values[key] for key in ("miou", "f_miou", "macc")}
        for row, matched in self.instances.items():
            for scene in matched:
                alone = self.evaluator(row, [scene]).average_precision().as_dict()
                short = found.setdefault(scene, {}).setdefault(row, {})
                short.update({key: alone[key] for key in ("ap", "ap50", "ap25")})
        return found

    def merge(self, other: SceneScores) -> None:
        """Add the scenes of `other`. Raises ConfigError for another label space, or a scene that is in both."""
        if other.meta() != self.meta():
            raise ConfigError("results of different label spaces, region sizes or galleries cannot be put together")
        for kind in KINDS:
            for row, scenes in getattr(other, kind).items():
                held = getattr(self, kind).setdefault(row, {})
                twice = sorted(held.keys() & scenes.keys())
                if twice:
                    raise ConfigError(f"scene {twice[0]} is in two results that must not overlap")
                held.update(scenes)

    def meta(self) -> dict[str, Any]:
        """What all scenes share, as JSON values."""
        return {name: getattr(self, name) for name in ("class_names", "thing_names", "groups", "min_region", "gallery")}

    def write(self, path: Path) -> None:
        """Write the file, atomically; the same counts give the same bytes."""
        records = []
        for row in dict.fromkeys((*self.semantic, *self.instances, *self.retrieval)):
            semantic, instances, retrieval = (getattr(self, kind).get(row, {}) for kind in KINDS)
            for scene in dict.fromkeys((*semantic, *instances, *retrieval)):
                record: dict[str, Any] = {"row": row, "scene": scene}
                if scene in semantic:
                    record["counts"] = np.ravel(sparse_counts(semantic[scene])).tolist()
                if scene in instances:
                    record |= {name: getattr(instances[scene], name).tolist() for name in _MATCHES}
                if scene in retrieval:
                    record["perturbations"] = list(retrieval[scene])
                    record["n_queries"] = [part.n for part in retrieval[scene].values()]
                    record["query_sums"] = [value for part in retrieval[scene].values() for value in part.sums]
                records.append(record)
        table = pa.Table.from_pylist(records, schema=_SCHEMA.with_metadata({_META: json.dumps(self.meta()).encode()}))
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    @staticmethod
    def read(path: Path) -> SceneScores:
        """Inverse of `write`. Raises ConfigError, one line, where `path` is none of these files."""
        try:
            table = pq.read_table(path, use_threads=False)
            meta = json.loads((table.schema.metadata or {})[_META])
            found = SceneScores(
                tuple(meta["class_names"]),
                tuple(meta["thing_names"]),
                {k: tuple(v) for k, v in meta["groups"].items()},
                int(meta["min_region"]),
                str(meta["gallery"]),
            )
            for record in table.to_pylist():
                row, scene = record["row"], record["scene"]
                if record["counts"] is not None:
                    found.semantic.setdefault(row, {})[scene] = found.matrix(record["counts"])
                if record["gt_class"] is not None:
                    found.instances.setdefault(row, {})[scene] = matches_of(record)
                if record["perturbations"] is not None:
                    sums = np.reshape(record["query_sums"], (-1, len(FIGURES))).tolist()  # [perturbations, 4]
                    parts = zip(record["perturbations"], record["n_queries"], sums)
                    found.retrieval.setdefault(row, {})[scene] = {p: QuerySums(n, tuple(s)) for p, n, s in parts}
        except FileNotFoundError:
            raise ConfigError(
                f"{path}: the counts per scene are not beside the result; run its command again"
            ) from None
        except (OSError, pa.ArrowException, KeyError, ValueError, IndexError) as error:
            raise ConfigError(f"{path}: no readable counts per scene ({' '.join(str(error).split())[:100]})") from None
        return found


def scores_path(result: Path) -> Path:
    """Where the counts per scene of the result file `result` lie."""
    return result.with_name(f"{result.stem}.scenes.parquet")


def sparse_counts(matrix: ConfusionMatrix) -> list[list[int]]:
    """(truth, predicted, count) of the entries of a matrix that are not 0."""
    truth, predicted = np.nonzero(matrix.counts)
    return np.stack([truth, predicted, matrix.counts[truth, predicted]], axis=1).tolist()


def matches_of(state: Mapping[str, Any]) -> SceneMatches:
    """The matches of a scene from one entry of `InstanceEvaluator.state`."""
    return InstanceEvaluator(()).merge([state]).scenes[0]
