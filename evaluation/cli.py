"""chorus-eval: how good are the features? One command per task; each writes a JSON result that carries its own
command.
"""

from __future__ import annotations

import click

from chorus_common.runtime.errors import run_cli
from evaluation.commands.batch import batch_command
from evaluation.commands.compare import compare_command
from evaluation.commands.finetune import finetune_command
from evaluation.commands.instances import instances_command
from evaluation.commands.lerf import lerf_command
from evaluation.commands.probe import probe_command
from evaluation.commands.query import query_command
from evaluation.commands.report import report_command
from evaluation.commands.retrieval import retrieval_command
from evaluation.commands.view import view_command
from evaluation.commands.zero_shot import zero_shot_command
from evaluation.results import RecordingGroup


@click.group(
    "chorus-eval", cls=RecordingGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
def cli() -> None:
    """Evaluation: one command per task, and the report."""


cli.add_command(zero_shot_command)
cli.add_command(instances_command)
cli.add_command(probe_command)
cli.add_command(finetune_command)
cli.add_command(lerf_command)
cli.add_command(batch_command)
cli.add_command(compare_command)
cli.add_command(query_command)
cli.add_command(report_command)
cli.add_command(retrieval_command)
cli.add_command(view_command)


def main() -> None:
    """Entry point of the program."""
    run_cli(cli)
