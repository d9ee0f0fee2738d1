"""What an ImageNet classifier says of whole pictures: a program of its own for studies, which may not load teachers.

python -m stage1_render_teachers.classify_pictures PICTURES.npy LOGITS.npy
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.atomic import atomic_path
from chorus_common.runtime.errors import EXIT_DONE, ConfigError, run_cli
from chorus_common.runtime.options import FILE
from chorus_common.runtime.progress import progress

#: Pixels per position of the last map: the classifier's own.
STRIDE = 32
BATCH = 32


def classify(pictures: NDArray[np.uint8], classifier: Any, settings: dict[str, Any]) -> NDArray[np.float32]:
    """Logits [M, K] of pictures [M, S, S, 3] u8 by a classifier of timm; settings: its mean and std."""
    import torch

    from stage1_render_teachers.teachers.token_teacher import normalise

    logits = []
    with progress(len(pictures), "pictures") as reporter, torch.inference_mode():
        for first in range(0, len(pictures), BATCH):
            part = torch.from_numpy(pictures[first : first + BATCH]).permute(0, 3, 1, 2).float() / 255  # [b, 3, S, S]
            logits.append(classifier(normalise(part, settings["mean"], settings["std"])).numpy())
            reporter.advance(len(part))
    return np.concatenate(logits).astype(np.float32)


@click.command("classify-pictures", context_settings={"show_default": True})
@click.argument("pictures", type=FILE)
@click.argument("logits", type=FILE)
@click.option("--model", default="tf_efficientnet_lite0", help="Convolutional classifier of timm.")
@click.option("--weights", default="lite0", help="Its weights: a name of make real-teachers, or a file.")
def command(pictures: Path, logits: Path, model: str, weights: str) -> int:
    """Write the logits [M, 1000] f32 of pictures [M, S, S, 3] u8."""
    from stage1_render_teachers.teachers.timm_teacher import create_classifier

    try:
        found = np.load(pictures)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{pictures}: no readable .npy file ({error})") from None
    if found.dtype != np.uint8 or found.ndim != 4 or found.shape[3] != 3 or not len(found):
        raise ConfigError(f"{pictures}: expected pictures [M, S, S, 3] u8, got {found.dtype} {list(found.shape)}")
    answers = classify(found, *create_classifier(model, weights, STRIDE))
    with atomic_path(logits) as beside, beside.open("wb") as file:
        np.save(file, answers)
    return EXIT_DONE


if __name__ == "__main__":
    run_cli(command)
