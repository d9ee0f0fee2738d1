"""chorus-stage1: scenes of a manifest -> a store of teacher caches."""

from __future__ import annotations

from chorus_common.runtime.cli import LazyCommand, program
from chorus_common.runtime.errors import run_cli

_COMMANDS = "stage1_render_teachers.commands"

cli = program(
    "chorus-stage1",
    "Stage 1: render scenes, ask the 2D teachers, write one teacher cache per scene.",
    {
        "run": LazyCommand(f"{_COMMANDS}.run:run_command", "Publish the cache of every scene."),
        "calibrate": LazyCommand(
            f"{_COMMANDS}.calibrate:calibrate_command", "Fit the PHI-S standardisers that the store lacks."
        ),
        "status": LazyCommand(f"{_COMMANDS}.status:status_command", "Tell which scenes are done, failed and pending."),
        "verify": LazyCommand(f"{_COMMANDS}.verify:verify_command", "Check every byte of every published scene."),
        "copy": LazyCommand(
            f"{_COMMANDS}.copy:copy_command", "Copy published scenes and standardisers to another store."
        ),
        "embed": LazyCommand(
            f"{_COMMANDS}.embed:embed_command", "Write what a teacher says of a picture as one vector."
        ),
        "import": LazyCommand(
            f"{_COMMANDS}.import_features:import_command",
            "Publish caches from features per Gaussian that lie beside the scenes.",
        ),
        "export": LazyCommand(
            f"{_COMMANDS}.export_features:export_command",
            "Write caches as folders with features per Gaussian, for other programs.",
        ),
        "capture": LazyCommand(
            f"{_COMMANDS}.capture:capture_command", "Render scenes as RGB-D captures with sensor noise."
        ),
    },
)


def main() -> None:
    """Entry point of chorus-stage1."""
    run_cli(cli)


if __name__ == "__main__":
    main()
