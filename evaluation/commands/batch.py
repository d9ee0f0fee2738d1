"""chorus-eval batch."""

from __future__ import annotations

from pathlib import Path

import click

from chorus_common.runtime.errors import EXIT_DONE, EXIT_SOME_FAILED
from chorus_common.runtime.options import config_option, out_option, scheduler_options, set_option
from evaluation.results import command_line


@click.command("batch")
@config_option("docs/guide/batch.md", required=True)
@set_option()
@out_option("Folder of the results. The same command again goes on.")
@click.option("--workers", type=click.IntRange(min=1), default=1, help="Cells at a time.")
@scheduler_options()
@click.option("--threads", type=click.IntRange(min=1), default=1, help="Threads of each cell.")
@click.option("--dry-run", is_flag=True, help="Print the commands of all cells and stop.")
def batch_command(
    config_path: Path, settings: tuple[str, ...], out: Path, workers: int, scheduler: str, slurm: Path | None,
    threads: int, dry_run: bool,
) -> int:  # fmt: skip
    """Run a matrix of encoders, data sets and tasks.

    The results go into one table.
    """
    import shlex

    from chorus_common.cluster.settings import ClusterConfig
    from chorus_common.cluster.slurm_jobs import SlurmConfig
    from chorus_common.runtime.atomic import write_text_atomically
    from chorus_common.runtime.config import dump_config, load_config
    from evaluation.batch.matrix import BatchConfig, cells
    from evaluation.batch.run import run_cells
    from evaluation.batch.table import markdown, table_lines, write_parquet

    config = load_config(BatchConfig, config_path, settings)
    matrix = list(cells(config))
    if dry_run:
        for cell in matrix:
            click.echo(shlex.join(["chorus-eval", *cell.arguments, "--out", str(cell.result(out))]))
        return EXIT_DONE
    write_text_atomically(out / "batch.json", dump_config(config))
    cluster = ClusterConfig(workers=workers, scheduler=scheduler, slurm=load_config(SlurmConfig, slurm))
    outcomes = run_cells(config, matrix, out, cluster, threads=threads)
    lines = table_lines(outcomes, out)
    write_parquet(lines, out / "results.parquet")
    text = markdown(lines, command_line())
    write_text_atomically(out / "results.md", text)
    click.echo(text.split("## Commands")[0].strip())
    click.echo(f"written: {out / 'results.parquet'}, {out / 'results.md'}")
    failed = sum(bool(o.problem) for o in outcomes)
    partial = sum(not o.complete for o in outcomes) - failed
    for n, what in ((failed, "failed"), (partial, "had scenes that failed")):
        if n:
            click.echo(f"{n} of {len(outcomes)} cells {what}; run the same command again to try them", err=True)
    return EXIT_SOME_FAILED if failed or partial else EXIT_DONE
