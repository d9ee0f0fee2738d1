"""Annotations in, masks and boxes out; frames belong to cameras by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.path import Path as Outline

from chorus_common.runtime.errors import ConfigError, SceneError
from evaluation.lerf.annotations import fill_polygon, read_annotations, read_frame
from evaluation.lerf.protocol import match_frames, score_frames, summarise
from evaluation.lerf.scores import LerfRules


def write_frame(path: Path, objects: list[dict[str, Any]], **info: Any) -> Path:
    document = {"info": {"name": f"{path.stem}.jpg", "width": 40, "height": 30, **info}, "objects": objects}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


SQUARE = [[5, 5], [14, 5], [14, 9], [5, 9]]


def test_objects_of_one_category_are_one_query(tmp_path: Path) -> None:
    other = [[[20, 20], [29, 20], [29, 24], [20, 24]]]  # a ring in a list, as some files have it
    frame = read_frame(
        write_frame(
            tmp_path / "frame_00041.json",
            [
                {"category": "mug", "segmentation": SQUARE, "bbox": [5, 5, 14, 9]},
                {"category": "bag", "segmentation": [[0, 0], [3, 0], [0, 3]]},
                {"category": "mug", "segmentation": other, "bbox": []},
            ],
        )
    )
    assert (frame.name, frame.width, frame.height) == ("frame_00041", 40, 30)
    assert [q.text for q in frame.queries] == ["bag", "mug"]
    mug = frame.queries[1]
    assert mug.mask.sum() == 100
    assert mug.boxes.tolist() == [[5, 5, 14, 9], [20, 20, 29, 24]]


def test_polygons_equal_point_by_point_inclusion() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:40, :50]
    for _ in range(20):
        angle = np.sort(rng.uniform(0, 2 * np.pi, 7))
        ring = np.trunc(np.stack([25 + 18 * np.cos(angle), 20 + 15 * np.sin(angle)], axis=1))
        inside = Outline(ring).contains_points(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(40, 50)
        found = fill_polygon(ring, 50, 40)
        assert not (inside & ~found).any()
        extra = found & ~inside  # the outline, and nothing more than half a pixel off it
        ends = np.roll(ring, -1, axis=0)
        for py, px in np.argwhere(extra):
            along = ends - ring
            length = np.maximum((along**2).sum(axis=1), 1e-9)
            t = np.clip((([px, py] - ring) * along).sum(axis=1) / length, 0, 1)
            assert np.linalg.norm(ring + t[:, None] * along - [px, py], axis=1).min() <= 0.51


def test_parts_outside_the_picture_are_cut(tmp_path: Path) -> None:
    mask = fill_polygon(np.array([[-5.0, -5], [4, -5], [4, 3], [-5, 3]]), 10, 10)
    assert np.array_equal(np.argwhere(mask).max(axis=0), [3, 4])
    with pytest.raises(SceneError, match="object 'far' covers no pixel"):
        read_frame(
            write_frame(tmp_path / "a.json", [{"category": "far", "segmentation": [[50, 50], [60, 50], [60, 60]]}])
        )


@pytest.mark.parametrize(
    ("objects", "info", "message"),
    [
        ([{"category": "x", "segmentation": [[1, 2], [3, 4]]}], {}, "no polygon of at least three points"),
        ([{"category": "x", "segmentation": [["a", 2], [3, 4], [5, 6]]}], {}, "no polygon"),
        ([{"segmentation": SQUARE}], {}, "category"),
        ([], {"width": 0}, "width"),
    ],
)
def test_broken_annotations_name_the_file(
    objects: list[dict[str, Any]], info: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write_frame(tmp_path / "broken.json", objects, **info)
    with pytest.raises(SceneError, match=rf"broken\.json.*{message}"):
        read_frame(path)


def test_folders_without_annotations_and_text_that_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="holds no annotation"):
        read_annotations(tmp_path)
    (tmp_path / "frame.json").write_text("{", encoding="utf-8")
    with pytest.raises(SceneError, match=r"frame\.json: not JSON"):
        read_annotations(tmp_path)


def test_frames_meet_cameras_by_name_and_training_views_are_refused(tmp_path: Path) -> None:
    for number in (2, 4):
        write_frame(tmp_path / f"frame_0000{number}.json", [{"category": "mug", "segmentation": SQUARE}])
    frames = read_annotations(tmp_path)
    views = ("frame_00001.jpg", "frame_00002.jpg", "frame_00004.jpg")  # frame 3 was never registered
    assert match_frames(frames, views, (), "s") == {"frame_00002": 1, "frame_00004": 2}
    with pytest.raises(ConfigError, match="trained on annotated frame frame_00004"):
        match_frames(frames, views, views[2:], "s")
    with pytest.raises(ConfigError, match="no view is called 'frame_00004'"):
        match_frames(frames, views[:2], (), "s")


def test_means_of_scenes_and_of_queries_differ(tmp_path: Path) -> None:
    objects = [{"category": c, "segmentation": SQUARE} for c in ("a", "b", "c")]
    many = [read_frame(write_frame(tmp_path / "frame_1.json", objects))]
    one = [read_frame(write_frame(tmp_path / "frame_2.json", objects[:1]))]

    def answer(right: bool) -> Any:
        truth = many[0].queries[0].mask
        found = truth if right else ~truth
        return lambda name, w, h, texts: np.repeat(found[..., None], len(texts), axis=2).astype(np.float32)

    rules = LerfRules(box=1, majority=1)
    scores = {"s1": score_frames(many, answer(True), rules), "s2": score_frames(one, answer(False), rules)}
    body = summarise(scores)
    assert body["macro"]["miou"] == pytest.approx(0.5)
    assert body["query_weighted"]["miou"] == pytest.approx(0.75)
    assert body["query_weighted"]["queries"] == 4
    assert body["scenes"]["s1"]["localisation"] == 1.0
