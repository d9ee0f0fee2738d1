"""The picture's tokens inside SAM's mask decoder, for many prompts of one picture, without ever writing them out.

The stock decoder (segment_anything/modeling/transformer.py) updates all N tokens (4,096) of the picture for every
prompt and projects them again and again. Yet a prompt has only T tokens (7 for one point), and with h heads an update
adds to token n a mixture of h * T vectors, of h * (T - 1) and a constant because weights sum to one. So after any
number of blocks

    token[p, n] = scale[p, n] * base[n] + sum over k of weights[p, k, n] * rows[p, k]

where `base` is the same for all prompts of the picture: an update appends rows, and a layer norm changes scale and
weights, multiplies base and rows by its gain, and appends its bias as a row. Every projection of `base` is computed
once per picture; a prompt pays for its K rows (49 per block), not for the C channels (256). All of it is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stage1_render_teachers.teachers.onednn import add_products, products


@dataclass(frozen=True)
class SharedBlock:
    """What all prompts of a picture share in one block; h heads of d channels, N picture tokens.

    keys [h, d, N] and values [h, N, d]: of `base`, for the prompt's tokens that look at the picture. queries [h, d, N]:
    of `base`, for the picture that looks at the prompt. The position code is in keys and queries of the first block,
    where tokens are `base` itself; later its parts stand beside, in key_places and query_places [h, d, N].
    """

    keys: Tensor
    values: Tensor
    key_places: Tensor | None
    queries: Tensor | None
    query_places: Tensor | None


@dataclass(frozen=True)
class SharedNorm:
    """What all prompts share in the norm that ends a block: `base` is centred here, its mean over channels taken off.

    power [N]: |base|^2. meets: per block so far, products [h, d, N] of `base` with what a head's channel adds to a
    token. constants [J, N]: per block so far, products of `base` with the biases in its constant row.
    """

    power: Tensor
    meets: tuple[Tensor, ...]
    constants: Tensor


@dataclass(frozen=True)
class PromptTokens:
    """The picture's tokens for P prompts (see the module's docstring): scale [P, 1, N], rows [P, K, C], and their
    weights, the first K of `room` [P, all, N], which every block fills further. Of every block there are a constant
    row (the norm's bias before it and whatever else all tokens get) and h * (T - 1) rows of its update; at the end
    stands the constant row of the next block, with weight 1. spread: per block so far the values [P, h, T, d] that
    rows are made of, the last token's subtracted from the others'.
    """

    scale: Tensor
    room: Tensor
    rows: Tensor
    spread: tuple[Tensor, ...] = ()

    @property
    def weights(self) -> Tensor:
        """[P, K, N]."""
        return self.room[:, : self.rows.shape[1]]

    def of(self, chosen: Tensor) -> PromptTokens:
        """Those of the prompts of which `chosen` [P] bool is true; nothing is copied where that is all of them."""
        if chosen.all():
            return self
        return PromptTokens(
            self.scale[chosen], self.room[chosen], self.rows[chosen], tuple(v[chosen] for v in self.spread)
        )


def bare(prompts: int, tokens: int, blocks: int, like: Tensor) -> PromptTokens:
    """`base` itself for P prompts, with room for `blocks` blocks of `tokens` = h * (T - 1) rows; like [N, C]."""
    places, channels = like.shape
    room = like.new_empty(prompts, blocks * (tokens + 1) + 1, places)
    room[:, 0] = 1
    return PromptTokens(like.new_ones(prompts, 1, places), room, like.new_zeros(prompts, 1, channels))


def by_head(x: Tensor, heads: int) -> Tensor:
    """[N, heads * d] -> [heads, d, N]."""
    return x.T.unflatten(0, (heads, -1)).contiguous()


def split(x: Tensor, heads: int) -> Tensor:
    """[P, T, heads * d] -> [P, heads, T, d]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def into_heads(linear: Any, heads: int) -> Tensor:
    """Weight [heads * d, C] of a projection into heads -> [heads, d, C]."""
    weight: Tensor = linear.weight
    return weight.unflatten(0, (heads, -1))


def out_of_heads(linear: Any, heads: int) -> Tensor:
    """Weight [C, heads * d] of a projection out of heads -> [heads, d, C]."""
    weight: Tensor = linear.weight
    return weight.T.unflatten(0, (heads, -1))


def centred(x: Tensor) -> Tensor:
    """x [..., C] less its mean over channels."""
    return x - x.mean(dim=-1, keepdim=True)


def heads_times(x: Tensor, shared: Tensor) -> Tensor:
    """x [P, h, T, a] times a matrix [h, a, b] per head that all prompts share: [P, h, T, b]."""
    if len(x) == 1:
        return (x[0] @ shared)[None]
    out = x.transpose(0, 1).flatten(1, 2) @ shared  # [h, P * T, b]: a plain product would copy `shared` P times
    return out.unflatten(1, (len(x), -1)).transpose(0, 1)


def look(attention: Any, q: Tensor, block: SharedBlock, tokens: PromptTokens) -> Tensor:
    """The prompt's tokens, queries q [P, T, h * d], attend to the picture: what they read [P, T, h * d]."""
    heads = attention.num_heads
    q = split(q, heads)  # [P, h, T, d]
    q = q / q.shape[-1] ** 0.5  # the keys' bias moves all scores of a row alike: it leaves the softmax as it is
    if block.key_places is None:
        seen = heads_times(heads_times(q, block.keys).softmax(dim=-1), block.values)
    else:
        asked = (q @ into_heads(attention.k_proj, heads)).flatten(1, 2) @ tokens.rows.transpose(1, 2)  # [P, h * T, K]
        weights = _scores(q, block.keys, block.key_places, asked, tokens).softmax(dim=-1)  # [P, h, T, N]
        read = products(weights.flatten(1, 2), tokens.weights) @ tokens.rows  # [P, h * T, C]
        seen = heads_times(weights.mul_(tokens.scale[:, None]), block.values)
        seen = seen + read.unflatten(1, q.shape[1:3]) @ into_heads(attention.v_proj, heads).transpose(1, 2)
        seen = seen + attention.v_proj.bias.view(heads, 1, -1)
    return seen.transpose(1, 2).flatten(2)


def write(attention: Any, k: Tensor, v: Tensor, block: SharedBlock, tokens: PromptTokens) -> PromptTokens:
    """The picture attends to the prompt's tokens, keys and values [P, T, h * d]: its tokens with the update added."""
    heads = attention.num_heads
    k, v = split(k, heads), split(v, heads)  # [P, h, T, d]
    k = k / k.shape[-1] ** 0.5
    assert block.queries is not None
    if block.query_places is None:
        scores = heads_times(k, block.queries)  # [P, h, T, N]
    else:
        asked = (k @ into_heads(attention.q_proj, heads)).flatten(1, 2) @ tokens.rows.transpose(1, 2)  # [P, h * T, K]
        asked[..., -1] += (k @ attention.q_proj.bias.view(heads, -1, 1)).flatten(1)  # the last row's weight is 1
        scores = _scores(k, block.queries, block.query_places, asked, tokens)
    last = v[:, :, -1:]
    spread = torch.cat([v[:, :, :-1] - last, last], dim=2)
    rows = spread @ out_of_heads(attention.out_proj, heads)  # [P, h, T, C]
    constant = tokens.rows[:, -1:] + rows[:, :, -1].sum(dim=1, keepdim=True) + attention.out_proj.bias
    rows = torch.cat([tokens.rows[:, :-1], constant, rows[:, :, :-1].flatten(1, 2)], dim=1)
    weights = tokens.room[:, tokens.rows.shape[1] : rows.shape[1]].unflatten(1, (heads, -1))
    weights.copy_(scores.softmax(dim=2)[:, :, :-1])
    return PromptTokens(tokens.scale, tokens.room, rows, (*tokens.spread, spread))


def normalise(norm: Any, shared: SharedNorm, tokens: PromptTokens) -> PromptTokens:
    """Layer norm of the tokens; their weights change in place."""
    rows = centred(tokens.rows)
    # |scale * base + sum of weights * rows|^2 without the sum: the square of every part and twice their products.
    met = products(rows @ rows.transpose(1, 2), tokens.weights.transpose(1, 2))  # [P, K, N]
    twice = 2 * tokens.scale  # [P, 1, N]
    per_block = met.unflatten(1, (len(tokens.spread), -1)).unbind(1)
    for part, v, meet, biases in zip(per_block, tokens.spread, shared.meets, shared.constants, strict=True):
        products_of_rows = heads_times(v, meet)  # [P, h, T, N]
        part[:, 0].add_((biases + products_of_rows[:, :, -1].sum(dim=1)).mul_(twice[:, 0]))
        part[:, 1:].unflatten(1, (v.shape[1], -1)).addcmul_(products_of_rows[:, :, :-1], twice[:, None])
    power = tokens.scale.square() * shared.power + met.mul_(tokens.weights).sum(dim=1, keepdim=True)
    shrink = (power.clamp(min=0) / rows.shape[-1] + norm.eps).rsqrt()  # [P, 1, N]
    tokens.weights.mul_(shrink)
    tokens.room[:, rows.shape[1]] = 1
    rows = torch.cat([rows * norm.weight, norm.bias.expand(len(rows), 1, -1)], dim=1)
    return PromptTokens(tokens.scale * shrink, tokens.room, rows, tokens.spread)


def _scores(small: Tensor, projected: Tensor, places: Tensor, asked: Tensor, tokens: PromptTokens) -> Tensor:
    """Products [P, h, T, N] of vectors `small` [P, h, T, d] with the projected tokens and their position code.

    projected, places [h, d, N]: of `base` and of the code; asked [P, h * T, K]: the products with rows.
    """
    scores = torch.addcmul(heads_times(small, places), heads_times(small, projected), tokens.scale[:, None])
    return add_products(scores.flatten(1, 2), asked, tokens.weights.transpose(1, 2)).view_as(scores)
