"""Encoding in blocks with features on disk: the numbers of one pass, whatever the block size; killed and taken up."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_common.runtime.errors import ConfigError, SceneError
from stage2_distill.encoder import Encoder, PointBatch, build_encoder
from stage2_distill.encoder.hierarchy import build_hierarchy
from stage2_distill.encoder.out_of_core import _levels, encode_out_of_core
from stage2_distill.encoder.scratch import Scratch
from stage2_distill.encoder.voxel_rows import VoxelRows
from tests.stage2.clouds import cloud, permuted

SMALL: dict[str, Any] = {
    "enc_channels": (24, 36, 48),
    "enc_depths": (2, 1, 2),
    "enc_patch_size": (32, 24, 16),
    "dec_channels": (32, 36),
}
PRESETS: list[tuple[str, dict[str, Any]]] = [
    ("chorus-lite", {}),
    ("utonia", {}),
    ("scenesplat", {"dec_depths": (2, 1)}),
    ("ptv3", {"dec_depths": (1, 2), "layer_scale": 0.5, "stride": (2, 4)}),
    ("sonata", {}),
    ("sonata", {"upcast": 1, "stride": (3, 2)}),
    ("litept-s-star", {"dec_depths": (1, 1)}),
    ("chorus-lite", {"block": "basic", "input_norm": True}),
]


def small(preset: str, **overrides: Any) -> Encoder:
    torch.manual_seed(0)
    encoder = build_encoder(preset, **(SMALL | overrides))
    for module in encoder.modules():  # statistics and scales of a trained network, not the identity of a fresh one
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return encoder.eval()


def sorted_cloud(n: int, channels: int, seed: int = 0, extent: int = 24) -> PointBatch:
    """A cloud with rows in (x, y, z) order, as `scene_inputs` makes them."""
    batch = cloud(n, channels, seed, extent)
    x, y, z = batch.grid_coord.unbind(1)
    return permuted(batch, torch.argsort((x * 1000 + y) * 1000 + z))


@pytest.mark.parametrize(("preset", "overrides"), PRESETS)
def test_result_is_that_of_one_pass(preset: str, overrides: dict[str, Any], tmp_path: Path) -> None:
    encoder = small(preset, **overrides)
    batch = sorted_cloud(700, encoder.config.in_channels)
    with torch.no_grad():
        whole = encoder(batch)
        last = encoder.forward_levels(batch)[-1]
    for rows in (23, 160, 10_000):
        result, scratch, (feat, coord, grid) = encode_out_of_core(encoder, batch, tmp_path / "work", rows)
        assert result.shape == whole.shape
        assert (result - whole).abs().max() / whole.abs().max() < 1e-5
        scratch.release()
        assert (result - whole).abs().max() / whole.abs().max() < 1e-5  # given back memory is not lost
        assert (feat - last.feat).abs().max() / last.feat.abs().max() < 1e-5
        torch.testing.assert_close(coord, last.level.coord)
        assert torch.equal(grid, last.level.grid_coord)
        left = {f.name for f in (tmp_path / "work").glob("*.bin") if not f.name.startswith("order")}
        assert len(left - {"deepest.bin"}) == 1  # the result alone, beside the deepest level
        scratch.close()


def test_random_weights_of_full_depth_and_any_block_size(tmp_path: Path) -> None:
    """Relative to every voxel's own length, for a deep encoder whose errors could add up."""
    torch.manual_seed(0)
    encoder = build_encoder("sonata", enc_channels=(18, 24, 36, 36, 48), enc_depths=(3, 3, 3, 12, 3)).eval()
    batch = sorted_cloud(1500, 9, extent=60)
    with torch.no_grad():
        whole = encoder(batch)
    for rows in (100, 1000):
        result, _, _ = encode_out_of_core(encoder, batch, tmp_path / str(rows), rows)
        assert ((result - whole).norm(dim=1) / whole.norm(dim=1)).max() < 1e-3


class Killed(Exception):
    pass


def test_goes_on_after_the_last_complete_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = small("litept-s-star", dec_depths=(1, 1))
    batch = sorted_cloud(300, 6)
    expected, _, _ = encode_out_of_core(encoder, batch, tmp_path / "a", 50)
    release, calls = Scratch.release, [0]

    def killed_at(stop: int) -> None:
        calls[0] = 0

        def count(scratch: Scratch) -> None:
            calls[0] += 1
            if calls[0] == stop:
                raise Killed
            release(scratch)

        monkeypatch.setattr(Scratch, "release", count)

    killed_at(10**6)
    encode_out_of_core(encoder, batch, tmp_path / "b", 50)
    blocks = calls[0]
    for stop in (1, blocks // 3, blocks // 3):
        killed_at(stop)
        with pytest.raises(Killed):
            encode_out_of_core(encoder, batch, tmp_path / "c", 50)
    killed_at(10**6)
    result, scratch, _ = encode_out_of_core(encoder, batch, tmp_path / "c", 50)
    scratch.close()
    assert torch.equal(result, expected)
    assert calls[0] < 0.75 * blocks  # what was complete is not made again
    killed_at(1)
    result, _, _ = encode_out_of_core(encoder, batch, tmp_path / "c", 50)  # nothing left to do
    assert torch.equal(result, expected)


def test_other_work_in_the_folder_is_not_taken_up(tmp_path: Path) -> None:
    first, second = small("chorus-lite"), small("chorus-lite", enc_depths=(1, 1, 1))
    batch = sorted_cloud(200, 11)
    _, scratch, _ = encode_out_of_core(first, batch, tmp_path, 50)
    with pytest.raises(ConfigError, match="another process is at work here"):
        encode_out_of_core(second, batch, tmp_path, 50)
    scratch.close()
    result, _, _ = encode_out_of_core(second, batch, tmp_path, 50)
    with torch.no_grad():
        assert torch.allclose(result, second(batch), atol=1e-5)


def test_lost_files_are_no_zeros(tmp_path: Path) -> None:
    encoder, batch = small("chorus-lite"), sorted_cloud(100, 11)
    _, scratch, _ = encode_out_of_core(encoder, batch, tmp_path, 50)
    scratch.close()
    (tmp_path / "dec0.bin").unlink()
    with pytest.raises(ConfigError, match=r"dec0\.bin: is gone or damaged; remove"):
        encode_out_of_core(encoder, batch, tmp_path, 50)


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="holds other files"):
        Scratch(tmp_path, "key")
    assert (tmp_path / "thesis.tex").exists()


def test_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    scratch = Scratch(tmp_path / "work", "key")
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ConfigError, match=r"work: no room for 1\.0 GiB more"):
        scratch.array("x", (1 << 28,), torch.float32, new=True)
    assert not (tmp_path / "work" / "x.bin").exists()


def test_batches_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    encoder = small("chorus-lite")
    a = sorted_cloud(50, 11)
    with pytest.raises(SceneError, match="one scene is encoded at a time"):
        encode_out_of_core(encoder, PointBatch.concatenate([a, a]), tmp_path / "a", 10)
    with pytest.raises(SceneError, match="ascending"):
        encode_out_of_core(encoder, permuted(a, torch.arange(len(a)).flip(0)), tmp_path / "b", 10)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 80), st.integers(1, 9), st.integers(0, 3), st.sampled_from([1, 2, 3, 4]))
def test_rows_around_parents_and_children(seed: int, n: int, extent: int, reach: int, stride: int) -> None:
    batch = sorted_cloud(n, 1, seed, extent)
    grid, level = batch.grid_coord, VoxelRows.of(batch.grid_coord)
    assert torch.equal(level.grid(slice(None)), grid)
    coarse = level.coarser(stride, rows_at_once=7)
    assert torch.equal(coarse.grid(slice(None)), torch.unique(grid // stride, dim=0))
    parents = level.parents(torch.arange(len(grid)), coarse, stride)
    assert torch.equal(coarse.grid(parents), grid // stride)
    g = torch.Generator().manual_seed(seed)
    for rows, voxels in ((len(level), level), (len(coarse), coarse)):
        start, stop = sorted(torch.randint(0, rows + 1, (2,), generator=g).tolist())
        if start == stop:
            continue
        if voxels is level:
            found = level.around(start, stop, reach)
            near = ((grid[:, None] - grid[start:stop]).abs().amax(2) <= reach).any(1).nonzero().squeeze(1)
            assert set(near.tolist()) <= set(found.tolist())
            assert torch.equal(found, torch.unique(found))
        else:
            children, of = level.children(coarse, start, stop, stride)
            assert torch.equal(children, ((parents >= start) & (parents < stop)).nonzero().squeeze(1))
            assert torch.equal(of, parents[children])


def test_halo_of_a_thin_block_is_thin() -> None:
    """A piece of one layer brings pieces of its neighbours, not the layers."""
    grid = torch.cartesian_prod(torch.arange(5), torch.arange(200), torch.arange(3))
    level = VoxelRows.of(grid)
    start = 2 * 600 + 300
    assert len(level.around(start, start + 30, 1)) <= 3 * (30 + 2 * 4)


def test_levels_are_those_of_one_pass() -> None:
    for preset in ("ptv3", "sonata", "chorus-lite"):
        with torch.device("meta"):
            encoder = build_encoder(preset, enc_mode=False)
        batch = sorted_cloud(300, encoder.config.in_channels, extent=5)  # so small that m1's codes are used up
        levels, _, depths = _levels(batch.grid_coord, encoder.config)
        for ours, expected in zip(levels, build_hierarchy(batch, encoder.config), strict=True):
            assert torch.equal(ours.grid(slice(None)), expected.grid_coord)
        assert len(depths) == len(levels)
