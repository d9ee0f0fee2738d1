"""`open_clip:MODEL:WEIGHTS`: CLIP and SigLIP (2), one text-aligned unit vector per cell.

Their towers are trained to make one vector per picture; plain tokens of the last layer are hardly text-aligned. Both
read-outs below let each token speak for itself as it would speak in the pooled vector:

- CLIP: the value path of the last attention, out_proj(W_v ln_1(x)), without the residual and without the MLP, then
  ln_post and the projection. That is MaskCLIP (Zhou et al., ECCV 2022, section 3.2) less the residual and MLP of its
  first version, which ClearCLIP (Lan et al., ECCV 2024) shows to carry the noise.
- SigLIP: the attention pooling applied to each token alone. A softmax over one key is 1, so the query drops out and
  what is left is closed form: y = proj(W_v x), y + mlp(norm(y)).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chorus_common.runtime.devices import autocast, pick_device
from chorus_common.runtime.errors import ConfigError
from chorus_common.runtime.weight_files import weights_fingerprint
from chorus_common.text.open_clip_model import OpenClipModel, load_open_clip
from stage1_render_teachers.teachers.protocol import F32, U8
from stage1_render_teachers.teachers.token_teacher import PatchNetwork, TokenTeacher, normalise


class OpenClipTeacher(TokenTeacher):
    """Dense tokens (`protocol.DenseTeacher`) and the model's own vector of a whole picture (`PictureTeacher`)."""

    @property
    def picture_size(self) -> int:
        """Side in pixels of the square pictures the model was trained on."""
        return int(self.network.module.picture_size)  # type: ignore[arg-type]

    def picture_embeddings(self, pictures: U8) -> F32:
        """What open_clip's encode_image gives, as unit vectors [M, channels] f32, of pictures [M, S, S, 3] u8."""
        if not len(pictures):
            return np.zeros((0, self.channels), dtype=np.float32)
        return np.concatenate(self._batches.run(self._whole, pictures))

    @torch.inference_mode()
    def _whole(self, pictures: U8) -> F32:
        network: Any = self.network
        x = torch.from_numpy(np.ascontiguousarray(pictures)).to(self.device).permute(0, 3, 1, 2).float() / 255
        with autocast(self.device, self.precision):
            vectors = network.module.whole(normalise(x, network.mean, network.std))
        return F.normalize(vectors.float(), dim=-1).cpu().numpy()


def build_open_clip_teacher(argument: str, device: str = "cpu") -> OpenClipTeacher:
    """The teacher of "MODEL:WEIGHTS[@PRECISION]", see `chorus_common.text.open_clip_model.load_open_clip`."""
    model = load_open_clip(argument)
    return OpenClipTeacher(
        spec=model.spec,
        weights=weights_fingerprint(model.network.visual),  # type: ignore[arg-type]
        network=patch_network(model),
        device=pick_device(device),
        precision=model.precision,
        text_aligned=True,
    )


def patch_network(model: OpenClipModel) -> PatchNetwork:
    """The picture tower of `model` as dense text-aligned tokens. Raises ConfigError for towers without a read-out."""
    import open_clip
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
    from timm.layers import AttentionPoolLatent

    visual: Any = model.network.visual
    if isinstance(visual, TimmModel) and isinstance(getattr(visual.trunk, "attn_pool", None), AttentionPoolLatent):
        trunk_name = open_clip.get_model_config(model.name)["vision_cfg"]["timm_model_name"]
        tower: ClipTower | SiglipTower = SiglipTower(
            dynamic_trunk(visual.trunk, trunk_name), visual.head, _side(visual)
        )
    elif (
        isinstance(visual, VisionTransformer)
        and visual.attn_pool is None
        and isinstance(visual.transformer.resblocks[-1], ResidualAttentionBlock)
    ):
        tower = ClipTower(visual)
    else:
        raise ConfigError(f"{model.spec}: no dense read-out for this picture tower; use a ViT of CLIP or SigLIP")
    return PatchNetwork(tower, tower, tower.patch, tower.channels, model.mean, model.std, unit=True)


def _side(visual: Any) -> int:
    """Pixels per side of the (square) pictures that a tower of open_clip was trained on."""
    return int(visual.image_size[0])


class ClipTower(nn.Module):
    """Dense tokens of open_clip's VisionTransformer: [B, 3, H, W] -> [B, H / patch, W / patch, C]."""

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.visual = visual
        self.patch = int(visual.patch_size[0])
        self.channels = int(visual.output_dim)
        self.picture_size = _side(visual)

    def whole(self, x: Tensor) -> Tensor:
        """The model's vector [B, C] of pictures [B, 3, S, S]."""
        vectors: Tensor = self.visual(x)
        return vectors

    def forward(self, x: Tensor) -> Tensor:
        visual: Any = self.visual
        rows, cols = x.shape[-2] // self.patch, x.shape[-1] // self.patch
        x = visual.conv1(x).flatten(2).transpose(1, 2)  # [B, rows * cols, width]
        first = visual.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        positions = resample_positions(visual.positional_embedding, visual.grid_size, (rows, cols))
        x = visual.ln_pre(torch.cat([first, x], dim=1) + positions.to(x.dtype))
        *blocks, last = visual.transformer.resblocks
        for block in blocks:
            x = block(x)
        x = visual.ln_post(value_path(last, x[:, 1:]))
        if visual.proj is not None:
            x = x @ visual.proj
        return x.unflatten(1, (rows, cols))


def value_path(block: Any, x: Tensor) -> Tensor:
    """What each token [B, N, width] would add to the stream if it attended to nothing but itself."""
    width = x.shape[-1]
    attention = block.attn
    values = F.linear(block.ln_1(x), attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :])
    return block.ls_1(attention.out_proj(values))


def resample_positions(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Position embeddings [1 + old, width] of another grid, [1 + new, width]; the class token keeps its own.

    Bicubic with antialiasing, as open_clip does for `force_image_size` (model.py, resize_pos_embed).
    """
    if tuple(old) == tuple(new):
        return positions
    grid = positions[1:].T.unflatten(1, old)[None].float()  # [1, width, *old]
    grid = F.interpolate(grid, size=new, mode="bicubic", align_corners=False, antialias=True)
    return torch.cat([positions[:1].float(), grid[0].flatten(1).T])


class SiglipTower(nn.Module):
    """Dense tokens of a timm ViT with attention pooling: [B, 3, H, W] -> [B, H / patch, W / patch, C]."""

    def __init__(self, trunk: Any, head: nn.Module, picture_size: int) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head
        self.picture_size = picture_size
        self.patch = int(trunk.patch_embed.patch_size[0])
        last = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
        self.channels = int(last[-1].out_features if last else trunk.num_classes or trunk.num_features)

    def whole(self, x: Tensor) -> Tensor:
        """The model's vector [B, C] of pictures [B, 3, S, S]."""
        vectors: Tensor = self.head(self.trunk(x))
        return vectors

    def forward(self, x: Tensor) -> Tensor:
        trunk: Any = self.trunk
        rows, cols = x.shape[-2] // self.patch, x.shape[-1] // self.patch
        tokens = trunk.forward_features(x)[:, trunk.num_prefix_tokens :]  # [B, rows * cols, width]
        tokens = self.head(trunk.head(trunk.fc_norm(pool_each_token(trunk.attn_pool, tokens))))
        return tokens.unflatten(1, (rows, cols))


def pool_each_token(pool: Any, x: Tensor) -> Tensor:
    """timm's AttentionPoolLatent of every token of [B, N, width] alone, in closed form."""
    values = F.linear(x, *_value_rows(pool.kv, x.shape[-1]))
    y = pool.proj(values)
    return y if pool.mlp is None else y + pool.mlp(pool.norm(y))


def _value_rows(kv: nn.Linear, width: int) -> tuple[Tensor, Tensor | None]:
    return kv.weight[width:], None if kv.bias is None else kv.bias[width:]


def dynamic_trunk(trunk: Any, name: str) -> Any:
    """The same trunk, built to take any picture size (open_clip builds it for one)."""
    import timm

    if trunk.attn_pool.pos_embed is not None or trunk.attn_pool.latent_len != 1:
        raise ConfigError(f"{name}: its attention pooling has no closed form per token")
    twin = timm.create_model(name, num_classes=trunk.num_classes, global_pool="map", dynamic_img_size=True)
    twin.load_state_dict(trunk.state_dict())
    return twin.eval().requires_grad_(False)
