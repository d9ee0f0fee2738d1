"""EncoderConfig: everything that is needed to build an encoder and to feed it. Saved beside the weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from chorus_common.runtime.config import Config
from stage2_distill.encoder import shape_context

#: input attributes and their widths, in the only order in which they may be concatenated per convention (see
#: `EncoderConfig.features`)
ATTRIBUTE_WIDTHS = {
    "coord": 3,
    "color": 3,
    "opacity": 1,
    "quat": 4,
    "scale": 3,
    "normal": 3,
    "shape": shape_context.WIDTH,
}


class InputConfig(Config):
    """How a scene becomes the encoder's input.

    Attributes:
        features: attributes in channel order. SceneSplat: color, opacity, quat, scale; Sonata: coord, color, normal;
            PTv3: color, normal. "shape" is the multi-scale shape context (shape_context.py), for small encoders that
            have to learn within minutes.
        indicator: append one 0/1 channel per attribute that says whether the scene has it; absent attributes are
            zeros. This is how one encoder takes Gaussians and points alike.
        color_range: "unit" = [0, 1] (x / 255: PTv3, Sonata, LitePT), "symmetric" = [-1, 1] (x / 127.5 - 1: SceneSplat).
        up, unit: what a scene must be for these weights: "z" = the vertical is z, "any" = which way it lies makes no
            difference (trained on scenes turned about every axis); "metres", "any" = its size makes none. All published
            encoders were trained on scenes with z up, in metres (turned about z alone, scaled by 0.9 to 1.1).
        grid_size: voxel edge in metres.
        coord_scale: factor between the scene's metres and the coordinates that the network sees (Utonia: 0.5 for
            rooms).
        scale_clip, opacity_min: ranges of the Gaussian channels (SceneSplat: scales clipped to 1.5 m); None = as they
            are.
        member: which Gaussian stands for its voxel at inference, "opaque" = the most opaque (first one among equals)
            or "mean" = attributes averaged.
        normals: where a scene has no normals, "axis" = the Gaussian's shortest axis, "plane" = plane fit to the
            nearest centres (for points), "zeros" = none, as Utonia was trained to take them.
    """

    features: tuple[str, ...] = ("color", "opacity", "quat", "scale")
    indicator: bool = False
    color_range: Literal["unit", "symmetric"] = "symmetric"
    up: Literal["z", "any"] = "z"
    unit: Literal["metres", "any"] = "metres"
    grid_size: PositiveFloat = 0.02
    coord_scale: PositiveFloat = 1.0
    scale_clip: PositiveFloat | None = 1.5
    opacity_min: float = 0.0
    member: Literal["opaque", "mean"] = "opaque"
    normals: Literal["axis", "plane", "zeros"] = "axis"

    @model_validator(mode="after")
    def _check(self) -> InputConfig:
        unknown = [f for f in self.features if f not in ATTRIBUTE_WIDTHS]
        if unknown or not self.features or len(set(self.features)) != len(self.features):
            raise ValueError(f"features must be distinct names out of {', '.join(ATTRIBUTE_WIDTHS)}")
        return self

    def metres(self, coord: Tensor) -> Tensor:
        """Coordinates of a `PointBatch` in the scene's metres."""
        return coord / self.coord_scale

    @property
    def channels(self) -> int:
        """Number of feature channels this input has."""
        return sum(ATTRIBUTE_WIDTHS[f] for f in self.features) + (len(self.features) if self.indicator else 0)


#: Whole numbers, one per stage or one between two stages.
Widths = tuple[PositiveInt, ...]
Depths = tuple[NonNegativeInt, ...]


class EncoderConfig(Config):
    """A point transformer U-Net. Field names follow upstream's constructors where upstream has them.

    S stages; enc_* tuples have S entries, stride and dec_* have S - 1 (index s = the stage whose resolution the
    block works at).

    Attributes:
        name: of the preset that this config came from.
        in_channels: feature channels per voxel.
        stride: how many voxels of a level fall together in the next, along each axis.
        enc_depths, dec_depths: blocks per stage. enc_channels, dec_channels: width of each stage.
        enc_num_head, dec_num_head: attention heads per stage.
        mlp_ratio: width of a block's MLP over the stage's. qkv_bias: biases of queries, keys and values.
        order: space-filling curves; block i of a stage uses curve i mod len(order).
        enc_patch_size, dec_patch_size: rows per attention patch.
        enc_conv, enc_attn, dec_conv, dec_attn: which parts the blocks of a stage have. PTv3: all; LitePT: conv
            early, attention late.
        enc_rope_freq, dec_rope_freq: base of the rotary encoding per stage, or None for none.
        rope_position: what the rotary encoding sees, "grid" = voxel indices (PointROPE, LitePT) or "coord" = the mean
            coordinates of the voxels' members (Utonia), whose frequencies are buffers `attn.rope.inv_freq`.
        rope_jitter, rope_rescale: in training, coordinates of the rotary encoding are multiplied by a random factor per
            cloud and axis, and by one per cloud, log-uniform in [1 / x, x]; None = not.
        block: "ptv3" (conv is the positional encoding `cpe`; layer norm before attention only), "litept" (conv
            stages have no MLP; attention without conv is preceded by a LayerNorm without residual) or "basic" (as
            litept, but convolutions are ResNet's basic blocks).
        stem: "conv" (submanifold, kernel `stem_kernel`) or "linear".
        norm: of stem, pooling, unpooling and basic blocks: "batch" (eps 1e-3) or "layer".
        norm_momentum: of the running statistics of "batch"; 0.01 is upstream's and needs some hundreds of steps.
        input_norm: standardise every input channel by its mean and deviation over training, so that no attribute
            outweighs another by its unit.
        pooling: "serialized" (m1: coarse codes are shifted fine codes) or "grid" (m2, LitePT: coarse voxels are
            serialized afresh).
        pool_reduce: "max" or "mean".
        depth_rule: bits per axis of the curves, from the largest coordinate: "max" (SceneSplat) or "max+1"
            (Pointcept, Sonata).
        depth_scope: "cloud" = each cloud has its own depth, so that results do not depend on batch mates; "batch" =
            upstream's rule, one depth for the whole batch. They agree for a batch of one.
        shuffle_orders: permute the curves at random in training. Never at inference.
        enable_flash: upstream's flag, kept for what it changes numerically: without flash upstream cuts patches of
            min(patch size, smallest cloud of the batch); with it (the default) each cloud is cut on its own. Both
            run through the same fused attention here.
        legacy_decoder_cpe: the first block after an unpooling convolves the skip branch only (m1).
        mask_token: a learned row for masked voxels (Sonata pre-training); a parameter only.
        enc_mode: no decoder; forward returns the features of the deepest `upcast` + 1 levels, concatenated on the
            way up.
        upcast: see enc_mode. 2 for Sonata and Concerto (512 + 384 + 192 = 1088 channels), 4 for the released Chorus
            (all five levels, 1232 channels).
        layer_scale: initial value of LayerScale, or None.
        drop_path: largest share of a block's outputs that is dropped in training, below 1: the rest is scaled up.
        checkpoint_blocks: recompute blocks in the backward pass (memory for time).
    """

    name: str = "chorus-lite"
    inputs: InputConfig = InputConfig()
    in_channels: PositiveInt = 11
    order: tuple[Literal["z", "z-trans", "hilbert", "hilbert-trans"], ...] = (
        "z",
        "z-trans",
        "hilbert",
        "hilbert-trans",
    )
    stride: Widths = (2, 2, 2, 2)
    enc_depths: Depths = (2, 2, 2, 6, 2)
    enc_channels: Annotated[Widths, Field(min_length=1)] = (32, 64, 128, 256, 512)
    enc_num_head: tuple[int, ...] = (2, 4, 8, 16, 32)
    enc_patch_size: Widths = (1024, 1024, 1024, 1024, 1024)
    dec_depths: Depths = (2, 2, 2, 2)
    dec_channels: Widths = (64, 64, 128, 256)
    dec_num_head: tuple[int, ...] = (4, 4, 8, 16)
    dec_patch_size: Widths = (1024, 1024, 1024, 1024)
    enc_conv: tuple[bool, ...] = (True, True, True, True, True)
    enc_attn: tuple[bool, ...] = (True, True, True, True, True)
    enc_rope_freq: tuple[float, ...] | None = None
    dec_conv: tuple[bool, ...] = (True, True, True, True)
    dec_attn: tuple[bool, ...] = (True, True, True, True)
    dec_rope_freq: tuple[float, ...] | None = None
    rope_position: Literal["grid", "coord"] = "grid"
    rope_jitter: float | None = Field(default=None, ge=1)
    rope_rescale: float | None = Field(default=None, ge=1)
    block: Literal["ptv3", "litept", "basic"] = "ptv3"
    mlp_ratio: PositiveFloat = 4
    qkv_bias: bool = True
    drop_path: float = Field(default=0.3, ge=0, lt=1)
    layer_scale: float | None = None
    stem: Literal["conv", "linear"] = "conv"
    stem_kernel: PositiveInt = 5
    norm: Literal["batch", "layer"] = "batch"
    norm_momentum: float = Field(default=0.01, gt=0, le=1)
    input_norm: bool = False
    pooling: Literal["serialized", "grid"] = "serialized"
    pool_reduce: Literal["max", "mean"] = "max"
    depth_rule: Literal["max", "max+1"] = "max+1"
    depth_scope: Literal["cloud", "batch"] = "cloud"
    shuffle_orders: bool = True
    enable_flash: bool = True
    legacy_decoder_cpe: bool = False
    mask_token: bool = False
    enc_mode: bool = False
    upcast: NonNegativeInt = 2
    checkpoint_blocks: bool = False

    @model_validator(mode="after")
    def _check(self) -> EncoderConfig:
        stages = len(self.enc_channels)
        for field, value in self:
            if field.startswith("enc_") and isinstance(value, tuple) and len(value) != stages:
                raise ValueError(f"{field} has {len(value)} entries, enc_channels has {stages}")
            between = field == "stride" or (field.startswith("dec_") and not self.enc_mode)
            if between and isinstance(value, tuple) and len(value) != stages - 1:
                raise ValueError(f"{field} has {len(value)} entries, expected {stages - 1}: one between two stages")
        if not self.order:
            raise ValueError("order is empty")
        if not self.enc_mode and not self.dec_channels:
            raise ValueError("a decoder needs at least two stages; set enc_mode for an encoder alone")
        for side in ("enc", "dec"):
            if side == "dec" and self.enc_mode:
                continue
            parts = (f"{side}_channels", f"{side}_num_head", f"{side}_attn", f"{side}_conv", f"{side}_depths")
            for s, (channels, num_heads, attn, conv, depth) in enumerate(zip(*(getattr(self, p) for p in parts))):
                if attn and depth and (num_heads < 1 or channels % num_heads):
                    raise ValueError(f"{side}_channels[{s}] = {channels} is not divisible by {num_heads} heads")
                if depth and not attn and not conv:
                    raise ValueError(f"{side} stage {s} has blocks without convolution and without attention")
        if self.stem == "conv" and self.stem_kernel % 2 == 0:
            raise ValueError("stem_kernel must be odd")
        if self.pooling == "serialized" and any(s & (s - 1) for s in self.stride):
            raise ValueError("serialized pooling needs strides that are powers of two")
        return self

    @property
    def out_channels(self) -> int:
        """Width D of the features that `Encoder.forward` returns."""
        if not self.enc_mode:
            return self.dec_channels[0]
        return sum(self.enc_channels[max(0, len(self.enc_channels) - 1 - self.upcast) :])
