"""A checkpoint of the released Chorus is adapted from the command line, and goes back into the release's layout."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from stage2_distill import cli
from stage2_distill.student import load_student, read_student_config
from tests.stage2.store_fakes import make_entries, publish_store

DATA = Path(__file__).parents[1] / "data"


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["chorus-stage2", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


@pytest.mark.parametrize("mode", ["3dgs", "pts"])
@pytest.mark.parametrize("settings", [(), ("lora.rank=4",)])
def test_adapt_and_back(mode: str, settings: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = DATA / f"chorus_{mode}_small.pth"
    store, out = tmp_path / "store", tmp_path / "adapted"
    publish_store(store, make_entries(scenes=2, n=200, teachers={"lang": 48, "dino": 32}), {"room0": "train"})
    small = ("epochs=1", "batch_size=1", "threads=1", "data.cover=0.0", "data.views=2", *settings)
    words = [word for setting in small for word in ("--set", setting)]
    assert (
        call(monkeypatch, "adapt", "--student", weights, "--store", store, *words, "--out", out, "--device", "cpu") == 0
    )
    before, after = load_student(weights), load_student(out)
    assert {n: (t.projector, t.space) for n, t in after.config.teachers.items()} == {
        "lang": ("norm_input", "unit"), "dino": ("norm_input", "unit"),
    }  # fmt: skip
    key = "enc.enc0.block0.attn.qkv.weight"
    assert not torch.equal(before.encoder.state_dict()[key], after.encoder.state_dict()[key])
    origin = read_student_config(out).origin
    assert origin is not None
    assert (origin.bytes, origin.licence) == (weights.stat().st_size, "CC BY-SA 4.0")
    assert call(monkeypatch, "export", out, "--layout", "release", "--out", tmp_path / "back.pth") == 0
    original = torch.load(weights, weights_only=True)["state_dict"]
    back = torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"]
    assert list(back) == list(original)
    assert all(back[k].shape == original[k].shape for k in original)
