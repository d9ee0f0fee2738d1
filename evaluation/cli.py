"""chorus-eval: how good are the features? One command per task; each writes a JSON result that carries its own
command.
"""

from __future__ import annotations

from chorus_common.runtime.cli import LazyCommand, program
from chorus_common.runtime.errors import run_cli
from evaluation.results import RecordingGroup

_COMMANDS = "evaluation.commands"

cli = program(
    "chorus-eval",
    "Evaluation: one command per task, and the report.",
    {
        "zero-shot": LazyCommand(f"{_COMMANDS}.zero_shot:zero_shot_command", "Segment scenes by class names alone."),
        "instances": LazyCommand(f"{_COMMANDS}.instances:instances_command", "Find and name objects."),
        "probe": LazyCommand(f"{_COMMANDS}.probe:probe_command", "Fit one linear layer on frozen features."),
        "finetune": LazyCommand(f"{_COMMANDS}.finetune:finetune_command", "Learn segmentation from labels."),
        "retrieval": LazyCommand(
            f"{_COMMANDS}.retrieval:retrieval_command", "Find the objects of a changed scene in the clean one."
        ),
        "label": LazyCommand(
            f"{_COMMANDS}.label:label_command", "Label every Gaussian of a scene, in the scene's own file."
        ),
        "query": LazyCommand(f"{_COMMANDS}.query:query_command", "Find where a scene shows what a text says."),
        "batch": LazyCommand(f"{_COMMANDS}.batch:batch_command", "Run a matrix of encoders, data sets and tasks."),
        "compare": LazyCommand(
            f"{_COMMANDS}.compare:compare_command", "Compare two results with confidence intervals."
        ),
        "lerf": LazyCommand(
            f"{_COMMANDS}.lerf:lerf_command", "Score language fields, or an encoder, under the LERF-OVS protocol."
        ),
        "view": LazyCommand(f"{_COMMANDS}.view:view_command", "Look at a scene in a browser."),
        "share": LazyCommand(f"{_COMMANDS}.share:share_command", "Make one page of a scene that opens anywhere."),
        "report": LazyCommand(f"{_COMMANDS}.report:report_command", "Make one page of the results of a run."),
    },
    RecordingGroup,
)


def main() -> None:
    """Entry point of the program."""
    run_cli(cli)


if __name__ == "__main__":
    main()
