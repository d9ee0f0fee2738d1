from __future__ import annotations

import pytest
import torch

from evaluation.finetuning.model import Segmentor, build_segmentor, probe_decoder, rebuilt
from evaluation.finetuning.settings import DecoderSettings, FineTuneConfig
from stage2_distill.encoder import build_encoder
from stage2_distill.encoder.inputs import scene_inputs
from tests.evaluation.labelled_rooms import labelled_scene, tiny_encoder


def config(**settings: object) -> FineTuneConfig:
    return FineTuneConfig.model_validate(settings)


def trained_names(model: Segmentor) -> set[str]:
    return {name.split(".")[1] if name.startswith("encoder.") else name.split(".")[0]
            for name, p in model.named_parameters() if p.requires_grad}  # fmt: skip


def test_what_is_trained_in_each_mode() -> None:
    encoder = tiny_encoder()
    assert trained_names(build_segmentor(encoder, 5, config(mode="linear"))) == {"classes"}
    assert trained_names(build_segmentor(encoder, 5, config(mode="decoder"))) == {"classes", "dec"}
    assert trained_names(build_segmentor(encoder, 5, config(mode="full"))) == {"classes", "dec", "enc", "embedding"}
    instance = build_segmentor(encoder, 5, config(mode="linear", task="instance"))
    assert trained_names(instance) == {"classes", "offsets"}


def test_frozen_parts_are_in_eval_mode_unless_published() -> None:
    encoder = tiny_encoder()
    for mode in ("linear", "decoder"):
        strict = build_segmentor(encoder, 5, config(mode=mode)).train()
        assert not any(m.training for part in strict.frozen_modules() for m in part.modules())
        assert not strict.encoder.training, "curves are not shuffled"
        assert strict.norm.training
        published = build_segmentor(encoder, 5, config(mode=mode, freeze="published")).train()
        assert all(m.training for part in published.frozen_modules() for m in part.modules())
    assert build_segmentor(encoder, 5, config(mode="decoder")).train().encoder.dec.training
    assert all(m.training for m in build_segmentor(encoder, 5, config(mode="full")).train().encoder.modules())
    assert not any(m.training for m in build_segmentor(encoder, 5, config()).train().eval().modules())


def test_levels_are_the_encoder_side_concatenated() -> None:
    encoder = tiny_encoder()
    model = build_segmentor(encoder, 5, config(features="levels"))
    assert model.encoder.out_channels == 8 + 16
    batch, _ = scene_inputs(labelled_scene(0), encoder.config)
    with torch.no_grad():
        fine, coarse = encoder.forward_levels(batch)
        joined = torch.cat([fine.feat, coarse.feat[coarse.level.cluster]], dim=1)
        torch.testing.assert_close(model.encoder.eval()(batch), joined)


def test_the_given_encoder_is_not_changed_and_its_output_is_kept() -> None:
    encoder = tiny_encoder()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    state = torch.random.get_rng_state()
    model = build_segmentor(encoder, 5, config(mode="full")).eval()
    assert torch.equal(state, torch.random.get_rng_state())
    batch, _ = scene_inputs(labelled_scene(0), encoder.config)
    with torch.no_grad():
        torch.testing.assert_close(model.encoder(batch), encoder(batch), rtol=0, atol=0)
    for p in model.parameters():
        p.data.add_(1.0)
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


def test_decoder_of_the_probe_as_published_for_sonata() -> None:
    decoder = probe_decoder(build_encoder("sonata", enc_depths=(1,) * 5).config, DecoderSettings())
    assert decoder.dec_channels == (64, 96, 192, 384)
    assert decoder.dec_num_head == (4, 6, 12, 24)
    assert decoder.dec_depths == (2, 2, 2, 2)
    assert not decoder.enc_mode


@pytest.mark.parametrize("preset", ["chorus-lite", "litept-s", "ptv3"])
def test_decoder_probe_takes_the_encoder_side_alone(preset: str) -> None:
    encoder = build_encoder(preset, enc_depths=(1,) * len(build_encoder(preset).config.enc_channels))
    probe = rebuilt(encoder, probe_decoder(encoder.config, DecoderSettings(depth=1)))
    old, new = encoder.state_dict(), probe.state_dict()
    for key, value in new.items():
        if not key.startswith("dec."):
            assert torch.equal(value, old[key]), key
    drawn = [k for k, v in new.items() if k.startswith("dec.") and v.ndim > 1 and k in old and v.shape == old[k].shape]
    assert not any(torch.equal(new[k], old[k]) for k in drawn)
