"""A small SAM of the stock parts, with seeded random weights, for tests."""

from __future__ import annotations

from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

SIDE = 128


def small_sam(checkpoint: str | None = None, heads: int = 4) -> Sam:
    """SAM with an encoder of 128 pixels and 4 blocks of width 48: 8 x 8 tokens, logits of 32 x 32.

    Biases start at random, so the seed goes first: nothing may depend on which tests ran before.
    """
    torch.manual_seed(0)
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=SIDE, depth=4, embed_dim=48, num_heads=3, out_chans=32, use_rel_pos=True, window_size=3,
            global_attn_indexes=(1, 3), norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=32, image_embedding_size=(8, 8), input_image_size=(SIDE, SIDE), mask_in_chans=4
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=32,
            transformer=TwoWayTransformer(depth=2, embedding_dim=32, num_heads=heads, mlp_dim=64),
        ),
    ).eval()  # fmt: skip


def random_state(sam: Sam, seed: int) -> dict[str, torch.Tensor]:
    """Seeded weights, none of them zero, of which two things are true as of trained ones: a token is mostly about its
    own place, and logits of masks have both signs and are many units apart."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in sam.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        state[name] = noise / max(1, value[0].numel()) ** 0.5 if value.dim() > 1 else value + 0.1 * noise
        if "image_encoder.blocks" in name and name.endswith(("attn.proj.weight", "lin2.weight")):
            state[name] *= 0.1
        if "output_hypernetworks_mlps" in name and "layers.2" in name:
            state[name] *= 30
        if "mask_decoder.transformer" in name and name.endswith(("q_proj.weight", "k_proj.weight")):
            state[name] *= 4  # prompts tell places apart
    state["mask_decoder.iou_prediction_head.layers.2.weight"] *= 0.1
    state["mask_decoder.iou_prediction_head.layers.2.bias"] += 0.9
    neck = state["image_encoder.neck.2.weight"]  # [out, in, 3, 3]
    neck[:, :, 1, 1] *= 10
    return state
