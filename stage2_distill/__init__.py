"""Stage 2: distil cached teachers into one 3D encoder."""

from typing import TYPE_CHECKING

from chorus_common.runtime.lazy import lazy_exports

if TYPE_CHECKING:
    from chorus_common.runtime.version import __version__
    from stage2_distill.encode import encode_scene
    from stage2_distill.encoder.checkpoints import export_encoder, load_encoder
    from stage2_distill.encoder.config import EncoderConfig
    from stage2_distill.encoder.model import Encoder
    from stage2_distill.encoder.presets import PRESETS, build_encoder
    from stage2_distill.settings import TrainConfig
    from stage2_distill.student import Student, load_student, save_student

__all__ = [
    "PRESETS",
    "Encoder",
    "EncoderConfig",
    "Student",
    "TrainConfig",
    "__version__",
    "build_encoder",
    "encode_scene",
    "export_encoder",
    "load_encoder",
    "load_student",
    "save_student",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "chorus_common.runtime.version": ("__version__",),
        "stage2_distill.encode": ("encode_scene",),
        "stage2_distill.encoder.checkpoints": ("export_encoder", "load_encoder"),
        "stage2_distill.encoder.config": ("EncoderConfig",),
        "stage2_distill.encoder.model": ("Encoder",),
        "stage2_distill.encoder.presets": ("PRESETS", "build_encoder"),
        "stage2_distill.settings": ("TrainConfig",),
        "stage2_distill.student": ("Student", "load_student", "save_student"),
    },
)
