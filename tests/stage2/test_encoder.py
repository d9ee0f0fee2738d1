"""The whole encoder: published sizes, upstream's outputs, invariances, gradients, precision."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chorus_common.runtime.errors import ConfigError, SceneError
from stage2_distill.encoder import Encoder, PointBatch, blocks, build_encoder, preset_config, sparse_conv
from tests.stage2.clouds import cloud, permuted

GOLDEN = Path(__file__).parents[1] / "data"
PARAMETERS = {
    "ptv3": 46_166_272, "scenesplat": 91_712_800, "sonata": 108_461_328, "concerto-base": 108_461_328,
    "concerto-large": 207_667_392, "litept-s": 12_712_932, "litept-s-star": 15_988_716, "litept-b": 45_112_788,
    "litept-l": 85_880_448, "chorus-3dgs": 108_461_424, "chorus-pts": 108_461_328, "utonia": 137_253_690,
    "utonia-small": 37_248_480, "utonia-tiny": 9_326_088, "concerto-small": 38_648_960,
}  # fmt: skip
SMALL = {
    "enc_channels": (24, 36, 48),
    "enc_depths": (1, 1, 2),
    "enc_patch_size": (32, 32, 32),
    "dec_channels": (32, 36),
}


def small(preset: str, **overrides: Any) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(preset, **(SMALL | overrides)).eval()


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("preset", PARAMETERS)
def test_parameter_counts_are_the_published_ones(preset: str) -> None:
    with torch.device("meta"):
        encoder = build_encoder(preset)
    assert sum(p.numel() for p in encoder.parameters()) == PARAMETERS[preset]


def test_state_of_scenesplat_and_mask_token() -> None:
    with torch.device("meta"):
        assert len(build_encoder("scenesplat").state_dict()) == 393
        assert sum(p.numel() for p in build_encoder("sonata", mask_token=True).parameters()) == 108_461_328 + 48


def golden(name: str, preset: str) -> tuple[Encoder, PointBatch, Any]:
    data = np.load(GOLDEN / f"encoder_{name}.npz")
    arguments = json.loads(str(data["config"]))
    encoder = build_encoder(preset, **({"enc_mode": False} | arguments)).eval()
    state = {k[6:]: torch.from_numpy(data[k]) for k in data.files if k.startswith("param/")}
    assert list(state) == list(encoder.state_dict())  # upstream's names, in upstream's order
    encoder.load_state_dict(state)
    batch = PointBatch(*(torch.from_numpy(data[k]) for k in ("coord", "grid_coord", "feat", "offset")))
    return encoder, batch, data


def deviation(out: torch.Tensor, expected: torch.Tensor) -> float:
    return float((out - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("name", "preset"),
    [("sonata", "sonata"), ("ptv3", "ptv3"), ("scenesplat", "scenesplat"), ("litept", "litept-s"),
     ("utonia", "utonia")],
)  # fmt: skip
def test_equals_upstream_with_decoder(name: str, preset: str) -> None:
    """Outputs of upstream's own classes (docs/design/encoder.md tells how the numbers were made)."""
    encoder, batch, data = golden(name, preset)
    expected = torch.from_numpy(data["output"])
    with torch.no_grad():
        out = encoder(batch, order_permutations=data["order_permutations"])
    assert deviation(out, expected) < 1e-6
    assert ((out - expected).norm(dim=1) / expected.norm(dim=1)).max() < 1e-5  # no single voxel deviates


@pytest.mark.parametrize("name", ["sonata", "utonia"])
def test_equals_upstream_encoder_alone(name: str) -> None:
    encoder, batch, data = golden(f"{name}_encoder", name)
    with torch.no_grad():
        deepest = encoder.forward_levels(batch)[-1]
    assert torch.equal(deepest.level.grid_coord, torch.from_numpy(data["output_grid_coord"]))
    assert torch.equal(deepest.level.batch, torch.from_numpy(data["output_batch"]))
    expected = torch.from_numpy(data["output"])
    assert (deepest.feat - expected).norm() / expected.norm() < 1e-6


def test_widths_of_the_releases() -> None:
    """Channels that the released Chorus and Utonia give: all five levels (Utonia-small's head reads four)."""
    widths = {"chorus-3dgs": 1232, "chorus-pts": 1232, "utonia": 1386, "utonia-small": 936, "sonata": 1088}
    assert {name: preset_config(name).out_channels for name in widths} == widths
    with torch.device("meta"):
        entries = {name: len(build_encoder(name).state_dict()) for name in ("utonia", "utonia-small", "utonia-tiny")}
    assert entries == {"utonia": 476, "utonia-small": 286, "utonia-tiny": 286}


@pytest.mark.parametrize("preset", ["ptv3", "scenesplat", "sonata", "litept-s", "chorus-lite", "utonia"])
def test_scene_alone_and_in_a_batch(preset: str) -> None:
    """The same numbers alone, in a batch, in a batch of another order, and with rows in another order."""
    encoder = small(preset, enc_mode=False)
    channels = encoder.config.in_channels
    a, b = cloud(150, channels, seed=1, extent=12), cloud(260, channels, seed=2, extent=40)
    order = torch.randperm(len(a), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alone = encoder(a)
        first = encoder(PointBatch.concatenate([a, b]))[: len(a)]
        last = encoder(PointBatch.concatenate([b, a]))[len(b) :]
        shuffled = encoder(permuted(a, order))
    for other in (first, last):
        assert torch.allclose(alone, other, atol=2e-5)
    assert torch.allclose(alone[order], shuffled, atol=2e-5)


def test_batch_scope_is_upstreams_rule() -> None:
    """With one curve depth for the batch, a wider batch mate changes the Hilbert patches of a cloud."""
    encoder = small("sonata", enc_mode=False, order=("hilbert",))
    a, b = cloud(150, 9, seed=1, extent=12), cloud(260, 9, seed=2, extent=40)
    both = PointBatch.concatenate([a, b])
    with torch.no_grad():
        ours = encoder(both)[: len(a)]
        upstream = encoder(both, order_permutations=[[0]] * 3)[: len(a)]
    assert not torch.allclose(ours, upstream, atol=1e-6)


def test_without_flash_patches_follow_the_smallest_cloud() -> None:
    a, b = cloud(20, 9, seed=1, extent=6), cloud(100, 9, seed=2, extent=12)
    level = small("sonata", enable_flash=False).hierarchy(PointBatch.concatenate([a, b]))[0]
    assert {g.shape[1] for g in level.patches(0, 32).groups} == {20}
    level = small("sonata").hierarchy(PointBatch.concatenate([a, b]))[0]
    assert {g.shape[1] for g in level.patches(0, 32).groups} == {20, 32}


def test_legacy_decoder_convolves_the_skip_branch() -> None:
    batch = cloud(120, 6)
    encoder = small("ptv3")
    seen: list[torch.Tensor] = []
    encoder.dec["dec0"]["block0"].cpe[0].tiles = lambda x, table: seen.append(x) or iter([(slice(None), x)])
    encoder.dec["dec0"]["up"].register_forward_hook(lambda m, i, out: seen.append(out[1]))
    with torch.no_grad():
        encoder(batch)
    assert torch.equal(seen[0], seen[1])


def test_tiles_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiled inference path equals the plain one, for tiles of any size."""
    for preset in ("ptv3", "litept-s-star", "chorus-lite"):
        encoder = small(preset, enc_mode=False)
        batch = cloud(300, encoder.config.in_channels)
        plain = encoder(batch)
        assert plain.requires_grad
        for tile in (7, 64, 4096):
            for module in (blocks, sparse_conv):
                monkeypatch.setattr(module, "CPU_TILE", tile)
            with torch.no_grad():
                assert torch.allclose(encoder(batch), plain, atol=1e-5)


def test_upcast_concatenates_on_the_way_up() -> None:
    encoder = small("sonata")
    batch = cloud(150, 9)
    with torch.no_grad():
        levels = encoder.forward_levels(batch)
        out = encoder(batch)
    assert out.shape == (len(batch), encoder.out_channels) == (len(batch), 24 + 36 + 48)
    child1, child2 = levels[1].level.cluster, levels[2].level.cluster
    assert child1 is not None
    assert child2 is not None
    for row in range(0, len(batch), 11):
        parts = [levels[0].feat[row], levels[1].feat[child1[row]], levels[2].feat[child2[child1[row]]]]
        assert torch.equal(out[row], torch.cat(parts))


def test_checkpointing_changes_nothing() -> None:
    batch = cloud(100, 11)
    plain = small("chorus-lite", drop_path=0.5).train()
    saving = small("chorus-lite", drop_path=0.5, checkpoint_blocks=True).train()
    for encoder in (plain, saving):
        torch.manual_seed(3)
        encoder(batch, generator=torch.Generator().manual_seed(1)).square().mean().backward()
    for a, b in zip(plain.parameters(), saving.parameters()):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.allclose(a.grad, b.grad, atol=1e-6)


@pytest.mark.parametrize("style", ["ptv3", "basic"])
def test_block_gradient(style: str) -> None:
    """gradcheck of a whole block in float64: convolution, attention with rotary encoding, MLP."""
    batch = cloud(9, 6, extent=4)
    torch.manual_seed(0)
    block = blocks.Block(
        6, 1, 4, 0, conv=True, attn=True, style=style, mlp_ratio=2, qkv_bias=True, drop_path=0, layer_scale=0.5,
        rope_base=100.0, norm=torch.nn.LayerNorm,
    ).double()  # fmt: skip
    level = small("sonata").hierarchy(cloud(9, 9, extent=4))[0]
    x = batch.feat.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: block(x, level), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_close(dtype: torch.dtype) -> None:
    encoder = small("chorus-lite")
    batch = cloud(300, 11)
    with torch.no_grad():
        reference = encoder(batch)
        with torch.autocast("cpu", dtype=dtype):
            low = encoder(batch)
    assert (low.float() - reference).norm() / reference.norm() < 0.03
    encoder.train()
    with torch.autocast("cpu", dtype=dtype):
        encoder(batch).float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_training_step_is_a_function_of_seed_and_generator() -> None:
    batch = cloud(120, 11)
    encoder = small("chorus-lite").train()

    def step(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return encoder(batch, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(step(1), step(1))
    assert not torch.equal(step(1), step(2))


@pytest.mark.parametrize("channels", [(16,), (16, 32), (32, 64, 128), (32, 64, 128, 192)])
def test_chorus_scales_down(channels: tuple[int, ...]) -> None:
    encoder = build_encoder("chorus-lite", enc_channels=channels, **({"enc_mode": True} if len(channels) == 1 else {}))
    assert encoder(cloud(60, 11)).shape == (60, encoder.out_channels)
    assert (encoder.config.enc_attn[-1], encoder.config.enc_conv[-1]) == (True, False)


def test_bad_settings_name_the_key() -> None:
    with pytest.raises(ConfigError, match="unknown encoder preset 'ptv4'; known: ptv3"):
        preset_config("ptv4")
    with pytest.raises(ConfigError, match="unknown key 'enc_chanels'; did you mean 'enc_channels'"):
        preset_config("chorus-lite", enc_chanels=(1, 2))
    with pytest.raises(ConfigError, match="enable_rpe"):
        preset_config("ptv3", enable_rpe=True)
    with pytest.raises(ConfigError, match=r"sonata: enc_channels\[0\] = 48 is not divisible by 5 heads$"):
        preset_config("sonata", enc_num_head=(5, 6, 12, 24, 32))


def test_bad_batches_are_refused() -> None:
    batch = cloud(20, 5)
    with pytest.raises(SceneError, match="takes 11 feature channels, the batch has 5"):
        small("chorus-lite")(batch)
    with pytest.raises(SceneError, match="offset"):
        PointBatch(batch.coord, batch.grid_coord, batch.feat, torch.tensor([19]))
    with pytest.raises(SceneError, match=">= 0"):
        PointBatch(batch.coord, batch.grid_coord - 1, batch.feat, batch.offset)
    with pytest.raises(SceneError, match="cloud 1 of the batch is empty"):
        PointBatch(batch.coord, batch.grid_coord, batch.feat, torch.tensor([20, 20]))


@pytest.mark.gpu
def test_cuda_equals_cpu() -> None:
    encoder = small("chorus-lite")
    batch = cloud(500, 11)
    with torch.no_grad():
        reference = encoder(batch)
        assert torch.allclose(encoder.cuda()(batch.to("cuda")).cpu(), reference, atol=1e-4)


def test_drop_path_of_a_cloud_does_not_depend_on_its_batch() -> None:
    """Training mode, two clouds with seeds of their own: together, alone and in another order the same numbers."""
    encoder = small("chorus-lite", drop_path=0.5, shuffle_orders=False).train()
    clouds = [replace(cloud(300, encoder.config.in_channels, seed), seeds=torch.tensor([seed])) for seed in (3, 4)]
    together = encoder(PointBatch.concatenate(clouds))
    turned = encoder(PointBatch.concatenate(clouds[::-1]))
    alone = [encoder(cloud) for cloud in clouds]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(turned, torch.cat(alone[::-1]), atol=1e-5, rtol=1e-4)
    other = encoder(replace(clouds[0], seeds=torch.tensor([5])))
    assert not torch.allclose(other, alone[0], atol=1e-3)


def test_rope_jitter_is_training_only_and_each_clouds_own() -> None:
    """Utonia's random factors of coordinates: within their range, alone and in a batch the same, never at inference."""
    encoder = small("utonia", shuffle_orders=False, drop_path=0.0)
    clouds = [replace(cloud(200, 9, seed), seeds=torch.tensor([seed])) for seed in (3, 4)]
    assert encoder.hierarchy(clouds[0])[0].rope_factors is None
    encoder.train()
    factors = [encoder.hierarchy(c)[-1].rope_factors for c in clouds]
    both = encoder.hierarchy(PointBatch.concatenate(clouds))[0].rope_factors
    assert both is not None
    assert torch.equal(both, torch.cat([f for f in factors if f is not None]))
    assert ((both > 1 / 1.32) & (both < 1.32)).all()
    assert len(both.flatten().unique()) == 6
    alone, together = encoder(clouds[0]), encoder(PointBatch.concatenate(clouds))[:200]
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-4)
    assert not torch.equal(alone, encoder.eval()(clouds[0]))
