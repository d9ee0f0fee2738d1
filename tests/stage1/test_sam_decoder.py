"""SAM's decoder for many prompts against the stock decoder, and the products it is made of against plain ones."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor

from chorus_common.runtime.devices import torch_threads
from stage1_render_teachers.teachers import onednn
from stage1_render_teachers.teachers.norm_gelu import norm_gelu
from stage1_render_teachers.teachers.sam_decoder import PointDecoder

SIDE, CHANNELS = 8, 32


def stock(depth: int = 2, seed: int = 0) -> tuple[PromptEncoder, MaskDecoder]:
    """The stock parts, with random weights that make tokens attend to different places."""
    torch.manual_seed(seed)
    prompts = PromptEncoder(CHANNELS, (SIDE, SIDE), (16 * SIDE, 16 * SIDE), 4)
    transformer = TwoWayTransformer(depth=depth, embedding_dim=CHANNELS, num_heads=4, mlp_dim=64)
    decoder = MaskDecoder(transformer_dim=CHANNELS, transformer=transformer)
    for name, value in decoder.named_parameters():
        value.data += 0.1 * torch.randn_like(value)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            value.data *= 3
    return prompts.eval().requires_grad_(False), decoder.eval().requires_grad_(False)


def answers_of_stock(
    prompts: PromptEncoder, decoder: MaskDecoder, embedding: Tensor, points: Tensor
) -> tuple[Tensor, Tensor]:
    labels = torch.ones(len(points), 1, dtype=torch.int)
    sparse, dense = prompts(points=(points[:, None], labels), boxes=None, masks=None)
    return decoder(embedding[None], prompts.get_dense_pe(), sparse, dense, multimask_output=True)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 5])
def test_masks_and_qualities_are_the_stock_decoders(depth: int, count: int) -> None:
    prompts, decoder = stock(depth)
    embedding, points = torch.randn(CHANNELS, SIDE, SIDE), torch.rand(count, 2) * 16 * SIDE
    fast = PointDecoder(prompts, decoder)
    with torch.inference_mode():
        expected, quality = answers_of_stock(prompts, decoder, embedding, points)
        shared = fast.share(embedding)
        found = fast.decode(shared, points)
        logits = fast.draw(shared, found, torch.ones(count, dtype=torch.bool), SIDE, SIDE)
    assert expected.std() > 0.05
    torch.testing.assert_close(found.quality, quality, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("rows", "cols"), [(5, 8), (8, 3), (1, 1)])
@pytest.mark.parametrize("together", [1, 3, None])
def test_only_chosen_prompts_and_the_pictures_part_are_drawn(rows: int, cols: int, together: int | None) -> None:
    prompts, decoder = stock()
    embedding, points = torch.randn(CHANNELS, SIDE, SIDE), torch.rand(4, 2) * 16 * SIDE
    fast = PointDecoder(prompts, decoder)
    with torch.inference_mode():
        expected, _ = answers_of_stock(prompts, decoder, embedding, points)
        shared = fast.share(embedding)
        found = fast.decode(shared, points, together)
        logits = fast.draw(shared, found, torch.tensor([False, True, False, True]), rows, cols)
    assert logits.shape == (2, 3, 4 * SIDE, 4 * SIDE)
    inside = (..., slice(4 * rows), slice(4 * cols))
    torch.testing.assert_close(logits[inside], expected[[1, 3]][inside], atol=1e-4, rtol=1e-4)
    rest = logits.clone()
    rest[inside] = 0
    assert not rest.any()


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_products_through_onednn_are_plain_products(gelu: bool, count: int) -> None:
    generator = torch.Generator().manual_seed(1)
    x, y, base = (torch.randn(*shape, generator=generator) for shape in ((count, 7, 16), (count, 9, 16), (count, 7, 9)))
    weight, bias = torch.randn(5, 16, generator=generator), torch.randn(5, generator=generator)
    exact = (x.double() @ weight.double().T + bias.double()).float()
    with torch.inference_mode():
        for arrange in (lambda t: t, lambda t: t.transpose(1, 2).contiguous().transpose(1, 2)):
            torch.testing.assert_close(onednn.products(arrange(x), arrange(y)), x @ y.transpose(1, 2))
            torch.testing.assert_close(onednn.add_products(base, arrange(x), arrange(y)), base + x @ y.transpose(1, 2))
            expected = torch.nn.functional.gelu(exact) if gelu else exact
            torch.testing.assert_close(onednn.linear(arrange(x), weight, bias, gelu), expected)
    torch.testing.assert_close(onednn.linear(x, weight, bias, gelu), expected)  # with gradients: torch's own


@pytest.mark.parametrize("size", [0.1, 3.0, 30.0])
def test_norm_and_gelu_in_one_pass_are_torchs(size: float) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(5, 4, 40, generator=generator) * size + 1
    norm, act = torch.nn.LayerNorm(40, eps=1e-6), torch.nn.GELU()
    norm.weight.data, norm.bias.data = (torch.randn(40, generator=generator) * 3 for _ in range(2))
    with torch.inference_mode():
        expected = act(norm(x))
        torch.testing.assert_close(norm_gelu(x.transpose(0, 1), norm, act), expected.transpose(0, 1))
        torch.testing.assert_close(norm_gelu(x.clone(), norm, act), expected, atol=1e-5, rtol=1e-5)


def test_threads_are_given_back_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="stop"), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ValueError("stop")
    assert torch.get_num_threads() == before
