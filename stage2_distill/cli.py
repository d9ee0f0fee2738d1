"""chorus-stage2: train a student from a teacher cache, use it, export it, describe it."""

from __future__ import annotations

from chorus_common.runtime.cli import LazyCommand, program
from chorus_common.runtime.errors import run_cli

_COMMANDS = "stage2_distill.commands"

cli = program(
    "chorus-stage2",
    "Stage 2: distil cached teachers into one 3D encoder.",
    {
        "train": LazyCommand(f"{_COMMANDS}.train:train_command", "Train a student from teacher caches."),
        "adapt": LazyCommand(f"{_COMMANDS}.adapt:adapt_command", "Adapt a student to the scenes of another domain."),
        "encode": LazyCommand(
            f"{_COMMANDS}.encode:encode_command", "Write the features of scenes' Gaussians, rows in the file's order."
        ),
        "export": LazyCommand(f"{_COMMANDS}.export:export_command", "Write a checkpoint in another layout."),
        "info": LazyCommand(f"{_COMMANDS}.info:info_command", "Describe an encoder."),
        "gaussiancross": LazyCommand(
            f"{_COMMANDS}.gaussiancross:gaussiancross_command", "Pretrain an encoder by rendering (GaussianCross)."
        ),
        "field": LazyCommand(f"{_COMMANDS}.field:field_command", "Train and ask a language field of one scene (GAGS)."),
    },
)


def main() -> None:
    """Entry point of `chorus-stage2`."""
    run_cli(cli)


if __name__ == "__main__":
    main()
