"""SAM's mask decoder for many point prompts of one picture: the stock numbers for a fraction of the work.

The stock decoder (segment_anything/modeling/transformer.py, mask_decoder.py) repeats the picture's tokens for every
prompt and projects all of them again and again. Two facts make most of that needless, and both are exact:

- before the first update the picture's tokens are the same for every prompt, so the first block's keys, values and
  queries of the picture are computed once;
- a prompt has T tokens (7 for one point) and the picture N (4,096), so a projection of the picture followed by a
  product with the prompt's tokens is cheaper the other way round. For head h, q_t . (W_h x_n) = (W_h^T q_t) . x_n: two
  products with 8 x T columns in place of the projections' 128 and the update's 128 x 256.

Masks are drawn (the two transposed convolutions, a third of what is left) only for prompts of which some output is
predicted to be good enough, and only where the picture is: not over the padding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stage1_render_teachers.teachers.onednn import add_products, linear, products


@dataclass(frozen=True)
class PictureTokens:
    """What all prompts of one picture share; h heads of d channels, N = side^2 tokens.

    source [N, C]: the embedding with the "no mask" prompt added. position: per attention that looks at updated tokens,
    its projection of the position code, [h, d, N]. keys, values, queries: of the first block, [h, d, N].
    """

    side: int
    source: Tensor
    keys: Tensor
    values: Tensor
    queries: Tensor
    position: tuple[tuple[Tensor, Tensor | None], ...]


@dataclass(frozen=True)
class DecodedPrompts:
    """Answers to P prompts before the masks are drawn: quality [P, 3] (SAM's predicted IoU), picture tokens [P, N, C]
    and mask tokens [P, 3, C] after the last block."""

    quality: Tensor
    picture: Tensor
    tokens: Tensor


class PointDecoder:
    """`prompt_encoder` and `mask_decoder` of a stock SAM, asked for the three masks of single points."""

    def __init__(self, prompt_encoder: Any, mask_decoder: Any) -> None:
        self._prompts, self._decoder = prompt_encoder, mask_decoder
        self._transformer = mask_decoder.transformer

    def share(self, embedding: Tensor) -> PictureTokens:
        """The shared part of a picture's embedding [C, side, side]."""
        no_mask = self._prompts.no_mask_embed.weight.reshape(-1, 1, 1)
        source = (embedding + no_mask).flatten(1).T.contiguous()  # [N, C]
        position = self._prompts.get_dense_pe()[0].flatten(1).T  # [N, C]
        first, *others = self._transformer.layers
        placed = source + position
        to_image, to_token = first.cross_attn_token_to_image, first.cross_attn_image_to_token
        later = [
            (
                _by_head(position @ layer.cross_attn_token_to_image.k_proj.weight.T, _heads(layer)),
                _by_head(position @ layer.cross_attn_image_to_token.q_proj.weight.T, _heads(layer)),
            )
            for layer in others
        ]
        final = self._transformer.final_attn_token_to_image
        return PictureTokens(
            side=embedding.shape[-1],
            source=source,
            keys=_by_head(to_image.k_proj(placed), to_image.num_heads),
            values=_by_head(to_image.v_proj(source), to_image.num_heads),
            queries=_by_head(to_token.q_proj(placed), to_token.num_heads),
            position=(*later, (_by_head(position @ final.k_proj.weight.T, final.num_heads), None)),
        )

    def decode(self, picture: PictureTokens, points: Tensor) -> DecodedPrompts:
        """Answers to single foreground points [P, 2] (x, y in the encoder's pixels)."""
        labels = torch.ones(len(points), 1, dtype=torch.int, device=points.device)
        sparse, _ = self._prompts(points=(points[:, None], labels), boxes=None, masks=None)
        decoder = self._decoder
        output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(len(points), -1, -1)
        code = torch.cat([output, sparse], dim=1)  # [P, T, C], also its own position code
        x, tokens = code, picture.source[None]
        for k, layer in enumerate(self._transformer.layers):
            x = layer.self_attn(x, x, x) if layer.skip_first_layer_pe else x + layer.self_attn(x + code, x + code, x)
            x = layer.norm1(x)
            if k == 0:
                x = layer.norm2(x + _look_shared(layer.cross_attn_token_to_image, x + code, picture))
            else:
                x = layer.norm2(
                    x + _look(layer.cross_attn_token_to_image, x + code, tokens, picture.position[k - 1][0])
                )
            x = layer.norm3(x + layer.mlp(x))
            if k == 0:
                tokens = _write_shared(layer.cross_attn_image_to_token, x + code, x, picture)
            else:
                tokens = _write(layer.cross_attn_image_to_token, x + code, x, tokens, picture.position[k - 1][1])
            tokens = layer.norm4(tokens)
        final = self._transformer.final_attn_token_to_image
        read = [0, *range(2, 1 + decoder.num_mask_tokens)]  # quality and the three masks; nobody reads the others
        x, code = x[:, read], code[:, read]
        x = self._transformer.norm_final_attn(x + _look(final, x + code, tokens, picture.position[-1][0]))
        return DecodedPrompts(decoder.iou_prediction_head(x[:, 0])[:, 1:], tokens, x[:, 1:])

    def draw(self, answers: DecodedPrompts, chosen: Tensor, side: int, rows: int, cols: int) -> Tensor:
        """Logits [K, 3, 4 side, 4 side] of the `chosen` [K] prompts: the first rows x cols of the side x side tokens
        are drawn, the rest is 0."""
        first, norm, act, second, _ = self._decoder.output_upscaling
        x = answers.picture[chosen].unflatten(1, (side, side))[:, :rows, :cols]  # [K, rows, cols, C]
        x = _upscale(x, first)  # [K, rows, cols, 2 x 2, C / 4]
        x = act(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
        x = _upscale(x, second, gelu=True)  # [K, rows, cols, 2 x 2, 2 x 2, C / 8]
        mlps = self._decoder.output_hypernetworks_mlps
        words = torch.stack([mlp(answers.tokens[chosen, i]) for i, mlp in enumerate(mlps[1:])], dim=2)  # [K, C/8, 3]
        logits = products(x.flatten(1, -2), words.transpose(1, 2))  # [K, rows * cols * 16, 3]
        logits = logits.view(len(chosen), rows, cols, 2, 2, 2, 2, words.shape[-1]).permute(0, 7, 1, 3, 5, 2, 4, 6)
        logits = logits.reshape(len(chosen), words.shape[-1], 4 * rows, 4 * cols)
        return F.pad(logits, (0, 4 * (side - cols), 0, 4 * (side - rows)))


def _heads(layer: Any) -> int:
    return int(layer.cross_attn_token_to_image.num_heads)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """[N, heads * d] -> [heads, d, N]."""
    return x.T.unflatten(0, (heads, -1)).contiguous()


def _split(x: Tensor, heads: int) -> Tensor:
    """[P, T, heads * d] -> [P, heads, T, d]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _rows_of_heads(linear: Any, heads: int) -> Tensor:
    """Weight [heads * d, C] of a projection into heads -> [heads, d, C]."""
    weight: Tensor = linear.weight
    return weight.unflatten(0, (heads, -1))


def _heads_times(x: Tensor, shared: Tensor) -> Tensor:
    """x [P, h, T, a] times a matrix [h, a, b] per head that all prompts share: [P, h, T, b]."""
    if len(x) == 1:
        return (x[0] @ shared)[None]
    out = x.transpose(0, 1).flatten(1, 2) @ shared  # [h, P * T, b]: a plain product would copy `shared` P times
    return out.unflatten(1, (len(x), -1)).transpose(0, 1)


def _merge(attention: Any, x: Tensor) -> Tensor:
    """[P, heads, T, d] -> out_proj -> [P, T, C]."""
    merged: Tensor = attention.out_proj(x.transpose(1, 2).flatten(2))
    return merged


def _look_shared(attention: Any, asks: Tensor, picture: PictureTokens) -> Tensor:
    """The prompt's tokens [P, T, C] attend to the picture's shared ones."""
    q = _split(attention.q_proj(asks), attention.num_heads)  # [P, h, T, d]
    scores = q @ picture.keys / math.sqrt(q.shape[-1])  # [P, h, T, N]
    return _merge(attention, scores.softmax(dim=-1) @ picture.values.transpose(1, 2))


def _write_shared(attention: Any, asks: Tensor, x: Tensor, picture: PictureTokens) -> Tensor:
    """The picture's shared tokens attend to the prompt's: updated tokens [P, N, C]."""
    k = _split(attention.k_proj(asks), attention.num_heads)
    scores = _heads_times(k / math.sqrt(k.shape[-1]), picture.queries)  # [P, h, T, N]
    return _update(attention, scores, x, picture.source.expand(len(asks), -1, -1))


def _look(attention: Any, asks: Tensor, tokens: Tensor, position: Tensor) -> Tensor:
    """The prompt's tokens [P, T, C] attend to the picture's own tokens [P, N, C]."""
    heads = attention.num_heads
    q = _split(attention.q_proj(asks), heads)
    q = q / math.sqrt(q.shape[-1])  # the keys' bias moves all scores of a row alike: it leaves the softmax as it is
    weights = _score(q, q @ _rows_of_heads(attention.k_proj, heads), tokens, position).softmax(dim=-1)  # [P, h, T, N]
    seen = products(weights.flatten(1, 2), tokens.transpose(1, 2)).unflatten(1, weights.shape[1:3])  # [P, h, T, C]
    values = seen @ _rows_of_heads(attention.v_proj, heads).transpose(1, 2)  # [P, h, T, d]
    bias = attention.v_proj.bias.view(heads, 1, -1)
    return _merge(attention, values + bias)


def _write(attention: Any, asks: Tensor, x: Tensor, tokens: Tensor, position: Tensor | None) -> Tensor:
    """The picture's own tokens [P, N, C] attend to the prompt's: updated tokens [P, N, C]."""
    heads = attention.num_heads
    k = _split(attention.k_proj(asks), heads)
    k = k / math.sqrt(k.shape[-1])
    assert position is not None
    scores = _score(k, k @ _rows_of_heads(attention.q_proj, heads), tokens, position)
    scores = scores + k @ attention.q_proj.bias.view(heads, -1, 1)
    return _update(attention, scores, x, tokens)


def _score(small: Tensor, wide: Tensor, tokens: Tensor, position: Tensor) -> Tensor:
    """Products [P, h, T, N] of the prompt's tokens with picture tokens [P, N, C] and their position code.

    small [P, h, T, d], wide [P, h, T, C]: a token before and after the transposed projection; position [h, d, N].
    """
    placed = _heads_times(small, position)  # [P, h, T, N]
    return add_products(placed.flatten(1, 2), wide.flatten(1, 2), tokens).view_as(placed)


def _update(attention: Any, scores: Tensor, x: Tensor, tokens: Tensor) -> Tensor:
    """tokens [P, N, C] + what they read from the prompt's tokens x [P, T, C] with scores [P, h, T, N]."""
    heads = attention.num_heads
    v = _split(attention.v_proj(x), heads)  # [P, h, T, d]
    out = attention.out_proj.weight.T.unflatten(0, (heads, -1))  # [h, d, C]
    written = (v @ out).flatten(1, 2)  # [P, h * T, C]
    # All of a picture token's weights sum to one per head, so the bias goes in once, with the first head's values.
    written[:, : v.shape[2]] += attention.out_proj.bias
    weights = scores.softmax(dim=2).flatten(1, 2)
    return add_products(tokens, weights.transpose(1, 2), written.transpose(1, 2))


def _upscale(x: Tensor, convolution: Any, gelu: bool = False) -> Tensor:
    """ConvTranspose2d of kernel and stride 2 on channels-last tokens [..., C] -> [..., 4 (2 x 2 pixels), D]."""
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)  # [2 x 2 x D, C]
    return linear(x, weight, convolution.bias.repeat(4), gelu).unflatten(-1, (4, -1))
