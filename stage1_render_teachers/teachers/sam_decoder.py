"""SAM's mask decoder for many point prompts of one picture: the stock numbers for a fraction of the work.

The stock decoder (segment_anything/modeling/transformer.py, mask_decoder.py) repeats the picture's tokens for every
prompt. Here they stay in the form of sam_tokens.py, whose larger part all prompts share, up to the first transposed
convolution. Masks are drawn (the two transposed convolutions, half of the work) only for prompts of which some output
is predicted to be good enough, and only where the picture is: not over the padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stage1_render_teachers.teachers.norm_gelu import norm_gelu
from stage1_render_teachers.teachers.onednn import add_products, linear, products
from stage1_render_teachers.teachers.sam_tokens import (
    PromptTokens,
    SharedBlock,
    SharedNorm,
    bare,
    by_head,
    centred,
    look,
    normalise,
    out_of_heads,
    write,
)


@dataclass(frozen=True)
class SharedPicture:
    """What all prompts of one picture share: per block its tables and the norm at its end, the tables of the last
    look, and `base` (sam_tokens.py) at the start [N, C] and after the first transposed convolution [N, 2 x 2 x C / 4];
    N = side^2 tokens. first, second: the weights of the two transposed convolutions as matrices."""

    side: int
    first: Tensor
    second: Tensor
    base: Tensor
    blocks: tuple[tuple[SharedBlock, SharedNorm], ...]
    final: SharedBlock
    raised: Tensor


@dataclass(frozen=True)
class DecodedPrompts:
    """Answers to P prompts before the masks are drawn: quality [P, 3] (SAM's predicted IoU), the picture's tokens and
    the mask tokens [P, 3, C] after the last block; the picture's tokens in parts, as many prompts each as were worked
    on together."""

    quality: Tensor
    picture: tuple[PromptTokens, ...]
    tokens: Tensor


class PointDecoder:
    """`prompt_encoder` and `mask_decoder` of a stock SAM, asked for the three masks of single points."""

    def __init__(self, prompt_encoder: Any, mask_decoder: Any) -> None:
        self._prompts, self._decoder = prompt_encoder, mask_decoder
        self._transformer = mask_decoder.transformer

    def share(self, embedding: Tensor) -> SharedPicture:
        """The shared part of a picture's embedding [C, side, side]."""
        no_mask = self._prompts.no_mask_embed.weight.reshape(-1, 1, 1)
        base = source = (embedding + no_mask).flatten(1).T.contiguous()  # [N, C]
        position = self._prompts.get_dense_pe()[0].flatten(1).T  # [N, C]
        blocks = []
        spread: list[Tensor] = []  # per block so far what a head's channel adds to a token, [h, d, C]
        constants = base.new_zeros(1, base.shape[1])  # [J, C]: biases in the constant row of every block so far
        for k, layer in enumerate(self._transformer.layers):
            tables = _tables(layer, base, position, first=k == 0)
            writes, norm = layer.cross_attn_image_to_token, layer.norm4
            spread.append(out_of_heads(writes.out_proj, writes.num_heads))
            constants[-1] += writes.out_proj.bias
            base, constants, spread = centred(base), centred(constants), [centred(s) for s in spread]
            meets = tuple(s @ base.T for s in spread)
            blocks.append((tables, SharedNorm(base.square().sum(dim=-1), meets, constants @ base.T)))
            base, spread = base * norm.weight, [s * norm.weight for s in spread]
            constants = torch.cat([constants * norm.weight, norm.bias[None]])
        final = self._transformer.final_attn_token_to_image
        heads = final.num_heads
        last = SharedBlock(
            keys=by_head(base @ final.k_proj.weight.T, heads),
            values=by_head(base @ final.v_proj.weight.T, heads).transpose(1, 2).contiguous(),
            key_places=by_head(position @ final.k_proj.weight.T, heads),
            queries=None,
            query_places=None,
        )
        first, second = (_as_matrix(self._decoder.output_upscaling[k]) for k in (0, 3))
        return SharedPicture(embedding.shape[-1], first, second, source, tuple(blocks), last, base @ first.T)

    def decode(self, picture: SharedPicture, points: Tensor, together: int | None = None) -> DecodedPrompts:
        """Answers to single foreground points [P, 2] (x, y in the encoder's pixels).

        together: prompts whose picture tokens are worked on at once, all by default. The prompts' own tokens always
        are: what they cost is reading the weights of the network.
        """
        labels = torch.ones(len(points), 1, dtype=torch.int, device=points.device)
        sparse, _ = self._prompts(points=(points[:, None], labels), boxes=None, masks=None)
        decoder, layers = self._decoder, self._transformer.layers
        output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(len(points), -1, -1)
        code = torch.cat([output, sparse], dim=1)  # [P, T, C], also its own position code
        together = together or len(points)
        rows = (code.shape[1] - 1) * layers[0].cross_attn_image_to_token.num_heads
        tokens = [bare(len(part), rows, len(layers), picture.base) for part in code.split(together)]

        def read(attention: Any, x: Tensor, block: SharedBlock) -> Tensor:
            queries = attention.q_proj(x).split(together)
            seen = torch.cat([look(attention, part, block, t) for part, t in zip(queries, tokens)])
            merged: Tensor = attention.out_proj(seen)
            return merged

        x = code
        for layer, (block, norm) in zip(layers, picture.blocks, strict=True):
            x = layer.self_attn(x, x, x) if layer.skip_first_layer_pe else x + layer.self_attn(x + code, x + code, x)
            x = layer.norm1(x)
            x = layer.norm2(x + read(layer.cross_attn_token_to_image, x + code, block))
            x = layer.norm3(x + layer.mlp(x))
            writes = layer.cross_attn_image_to_token
            parts = zip(writes.k_proj(x + code).split(together), writes.v_proj(x).split(together), tokens)
            tokens = [normalise(layer.norm4, norm, write(writes, k, v, block, t)) for k, v, t in parts]
        chosen = [0, *range(2, 1 + decoder.num_mask_tokens)]  # quality and the three masks; nobody reads the others
        x, code = x[:, chosen], code[:, chosen]
        x = x + read(self._transformer.final_attn_token_to_image, x + code, picture.final)
        x = self._transformer.norm_final_attn(x)
        return DecodedPrompts(decoder.iou_prediction_head(x[:, 0])[:, 1:], tuple(tokens), x[:, 1:])

    def draw(self, picture: SharedPicture, answers: DecodedPrompts, chosen: Tensor, rows: int, cols: int) -> Tensor:
        """Logits [K, 3, 4 side, 4 side] of the prompts for which `chosen` [P] bool is true: the first rows x cols of
        the side x side tokens are drawn, the rest is 0."""
        side = picture.side
        mlps = self._decoder.output_hypernetworks_mlps[1:]
        words = torch.stack([mlp(x) for mlp, x in zip(mlps, answers.tokens[chosen].unbind(1))], dim=1)  # [K, 3, C / 8]
        logits = words.new_zeros(len(words), words.shape[1], 4 * side, 4 * side)
        done = 0
        for tokens, wanted in zip(answers.picture, chosen.split([len(part.rows) for part in answers.picture])):
            count = int(wanted.sum())
            if count:
                part = slice(done, done + count)
                logits[part, :, : 4 * rows, : 4 * cols] = self._draw(
                    picture, tokens.of(wanted), words[part], rows, cols
                )
                done += count
        return logits

    def _draw(self, picture: SharedPicture, tokens: PromptTokens, words: Tensor, rows: int, cols: int) -> Tensor:
        """Logits [K, 3, 4 rows, 4 cols] of all prompts of `tokens`, products with their `words` [K, 3, C / 8]."""
        first, norm, act, second, _ = self._decoder.output_upscaling
        square = (picture.side, picture.side)

        def part(x: Tensor) -> Tensor:
            """[K, A, N] -> [K, rows * cols, A]."""
            return x.unflatten(-1, square)[..., :rows, :cols].flatten(-2).transpose(1, 2)

        raised = tokens.rows @ picture.first.T  # [K, rows of tokens, 2 x 2 x C / 4]
        raised[:, -1] += first.bias.repeat(4)  # the last row's weight is 1
        shared = picture.raised.unflatten(0, square)[:rows, :cols].flatten(0, 1) * part(tokens.scale)
        x = add_products(shared, part(tokens.weights).contiguous(), raised.transpose(1, 2)).unflatten(-1, (4, -1))
        x = norm_gelu(x, norm, act)
        x = linear(x, picture.second, second.bias.repeat(4), gelu=True)  # [K, rows * cols, 2 x 2, 2 x 2 x C / 8]
        x = x.unflatten(-1, (4, -1)).flatten(1, -2)  # [K, rows * cols * 16, C / 8]
        logits = products(words, x).view(*words.shape[:2], rows, cols, 2, 2, 2, 2)
        return logits.permute(0, 1, 2, 4, 6, 3, 5, 7).flatten(5, 7).flatten(2, 4)


def _tables(layer: Any, base: Tensor, position: Tensor, first: bool) -> SharedBlock:
    """Projections of a block's `base` and position code, both [N, C]."""
    looks, writes = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
    heads = looks.num_heads
    if first:
        placed = base + position
        return SharedBlock(
            keys=by_head(placed @ looks.k_proj.weight.T, heads),
            values=by_head(looks.v_proj(base), heads).transpose(1, 2).contiguous(),
            key_places=None,
            queries=by_head(writes.q_proj(placed), heads),
            query_places=None,
        )
    return SharedBlock(
        keys=by_head(base @ looks.k_proj.weight.T, heads),
        values=by_head(base @ looks.v_proj.weight.T, heads).transpose(1, 2).contiguous(),
        key_places=by_head(position @ looks.k_proj.weight.T, heads),
        queries=by_head(base @ writes.q_proj.weight.T, heads),
        query_places=by_head(position @ writes.q_proj.weight.T, heads),
    )


def _as_matrix(convolution: Any) -> Tensor:
    """ConvTranspose2d of kernel and stride 2 as a matrix [2 x 2 x D, C] for channels-last tokens."""
    weight: Tensor = convolution.weight
    return weight.permute(2, 3, 1, 0).flatten(0, 2)
