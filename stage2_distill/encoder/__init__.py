"""The 3D encoder: point transformers on voxels, in plain PyTorch, numerically equal to the published ones
(docs/design/encoder.md).
"""

from stage2_distill.encoder.checkpoints import convert, export_encoder, load_encoder
from stage2_distill.encoder.config import EncoderConfig, InputConfig
from stage2_distill.encoder.model import Encoder, LevelFeatures
from stage2_distill.encoder.point_batch import PointBatch
from stage2_distill.encoder.presets import PRESETS, build_encoder, preset_config

__all__ = [
    "PRESETS", "Encoder", "EncoderConfig", "InputConfig", "LevelFeatures", "PointBatch", "build_encoder", "convert",
    "export_encoder", "load_encoder", "preset_config",
]  # fmt: skip
