"""chorus-eval finetune."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from chorus_common.runtime.errors import EXIT_DONE, EXIT_SOME_FAILED
from chorus_common.runtime.options import PATH, config_option, manifest_option, set_option, workers_option
from chorus_common.runtime.store_path import StorePath
from evaluation.commands.options import (
    encoder_device_option,
    hold_out_option,
    learn_split_option,
    result_option,
    scene_stores_option,
    space_option,
    target_option,
    voters_option,
)
from evaluation.results import command_line, result_document, text_table, write_result


@click.command("finetune")
@manifest_option(required=True)
@scene_stores_option
@learn_split_option
@click.option("--split", "splits", multiple=True, default=["val"], help="Split to score. May be given several times.")
@hold_out_option
@click.option(
    "--encoder",
    type=PATH,
    required=True,
    help="Student or encoder, a path or a name.",
)
@click.option("--random", is_flag=True, help="Add the row 'random': the same from random weights.")
@click.option("--task", type=click.Choice(["semantic", "instance"]), help="What is learned.  [default: config]")
@click.option("--mode", type=click.Choice(["linear", "decoder", "full"]), help="What is trained.  [default: config]")
@click.option("--published-freezing", is_flag=True, help="Frozen parts stay in train mode, as in published probes.")
@config_option("docs/guide/fine-tune.md")
@set_option()
@space_option
@target_option
@voters_option
@workers_option()
@result_option
@encoder_device_option()
def finetune_command(
    manifest: StorePath,
    stores: tuple[StorePath, ...],
    train_splits: tuple[str, ...],
    splits: tuple[str, ...],
    hold_out: str,
    encoder: Path,
    random: bool,
    task: str | None,
    mode: str | None,
    published_freezing: bool,
    config_path: Path | None,
    settings: tuple[str, ...],
    label_space: str,
    target: Any,
    k: int,
    workers: int,
    out: Path,
    device: str,
) -> int:
    """Learn segmentation from labels.

    Trained is a linear probe, a decoder probe or everything.
    """
    import torch

    from chorus_common.runtime.config import load_config
    from evaluation.finetuning.settings import FineTuneConfig
    from evaluation.scene_scores import scores_path
    from evaluation.splits import Splits, labelled_pair
    from evaluation.tasks.finetune import FineTuneJob, finetune, with_random
    from stage2_distill.encoder import load_encoder
    from stage2_distill.engine.distributed import is_main_process, process_group
    from stage2_distill.hub import locate

    named = {"task": task, "mode": mode, "freeze": "published" if published_freezing else None}
    given = [f"{key}={value}" for key, value in named.items() if value is not None]
    config = load_config(FineTuneConfig, config_path, [*settings, *given])
    train, val = Splits(train_splits, splits, hold_out).select(stores, manifest)
    class_names, space = labelled_pair(train, val, label_space)
    encoders = with_random(load_encoder(encoder).to(device), config.seed, random=random)
    job = FineTuneJob(config, space, class_names, encoders, run_folder(out), target, k, workers)
    with process_group(torch.device(device)):  # of torchrun, for all rows
        body, scores = finetune(job, train, val)
    if not is_main_process():
        return EXIT_DONE
    inputs = {
        "manifest": str(manifest),
        "stores": [str(s) for s in stores],
        "train_splits": list(train_splits),
        "splits": list(splits),
        "hold_out": hold_out,
        "encoder": str(encoder),
        "encoder_weights": locate(encoder).origin().model_dump(),
        "label_space": space,
        "target": target,
        "k": k,
        "run_folder": str(job.folder),
        "config": config.model_dump(mode="json"),
    }
    scores.write(scores_path(out))
    write_result(out, result_document("finetune", command_line(), inputs, body))
    click.echo(table_of(body["rows"]))
    for name, reason in body["excluded"].items():
        click.echo(f"left out: {name}: {reason}", err=True)
    click.echo(f"written: {out}")
    return EXIT_SOME_FAILED if train.failed or val.failed else EXIT_DONE


def run_folder(out: Path) -> Path:
    """Where the state of the runs behind the result file `out` lies."""
    return out.with_name(f"{out.stem}.run")


def table_of(rows: dict[str, Any]) -> str:
    """The rows of a result as a table for the terminal."""
    header = ["", "mIoU", "f-mIoU", "mAcc", "accuracy"]
    keys = ["miou", "f_miou", "macc", "overall_accuracy"]
    cells = [[name, *(row[key] for key in keys)] for name, row in rows.items()]
    if all("instances" in row for row in rows.values()):
        header += ["AP", "AP50", "AP25"]
        for line, row in zip(cells, rows.values()):
            line += [row["instances"][key] for key in ("ap", "ap50", "ap25")]
    return text_table(header, cells)
