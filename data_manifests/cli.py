"""chorus-data: make, prepare, index and look at scenes."""

from __future__ import annotations

from chorus_common.runtime.cli import LazyCommand, program
from chorus_common.runtime.errors import run_cli

_COMMANDS = "data_manifests.commands"

cli = program(
    "chorus-data",
    "Make, prepare, index and look at 3D Gaussian Splatting scenes.",
    {
        "check": LazyCommand(f"{_COMMANDS}.check:check_command", "Check a scene before a long run."),
        "convert": LazyCommand(
            f"{_COMMANDS}.convert:convert_command",
            "Write the scene IN as OUT: .ply, .spz, .sog or .glb, by its ending.",
        ),
        "index": LazyCommand(f"{_COMMANDS}.index:index_command", "Index scenes into a manifest."),
        "inspect": LazyCommand(f"{_COMMANDS}.inspect:inspect_command", "Describe a scene or a manifest."),
        "prepare": LazyCommand(
            f"{_COMMANDS}.prepare:prepare_command", "Prepare a released data set: scenes, labels and a manifest."
        ),
        "synth": LazyCommand(f"{_COMMANDS}.synth:synth_command", "Make furnished synthetic rooms."),
    },
)


def main() -> None:
    """Entry point of the program."""
    run_cli(cli)


if __name__ == "__main__":
    main()
