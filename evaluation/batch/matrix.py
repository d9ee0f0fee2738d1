"""The matrix of a batch: which tasks are asked of which encoders on which data sets, and the command of every cell."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from chorus_common.runtime.config import Config
from evaluation.batch.protocols import PROTOCOLS

Option = bool | int | float | str | list[str]


class DatasetEntry(Config):
    """A data set of the matrix.

    Attributes:
        manifest: its manifest.
        stores: stores of stage 1; none: scenes come from their sources.
        train_splits, split: splits to learn from, and the split to score.
        folds: name -> pattern of scene ids that are held out in this fold, from all the splits together. Tasks that
            learn run once per fold and get a row over the union of the folds.
    """

    manifest: str
    stores: list[str] = Field(default_factory=list)
    train_splits: list[str] = Field(default_factory=lambda: ["train"], min_length=1)
    split: str = "val"
    folds: dict[str, str] = Field(default_factory=dict)


class TaskEntry(Config):
    """A task of the matrix.

    Attributes:
        command: a command of chorus-eval.
        protocol: a published protocol (`evaluation.batch.protocols`): its options go before those of the task, and the
            table shows the means under its definition.
        options: its options as a table: {mode = "linear", random = true, set = ["steps=300"]} becomes --mode linear
            --random --set steps=300.
        seeds: the cell is run once per seed.
        encoders: names of encoders and of features; empty = all that the command can take. datasets: names; empty =
            all.
    """

    command: str
    protocol: str = ""
    options: dict[str, Option] = Field(default_factory=dict)
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)
    encoders: list[str] = Field(default_factory=list)
    datasets: list[str] = Field(default_factory=list)


class BatchConfig(Config):
    """The matrix. Names become file names: letters, digits, ".", "-" and "_".

    Attributes:
        encoders: name -> student or checkpoint, a path or the name of published weights.
        features: name -> folder of <scene id>.npy, for commands that take features in place of an encoder.
        datasets: name -> data set.
        tasks: name -> task.
    """

    encoders: dict[str, str] = Field(default_factory=dict)
    features: dict[str, str] = Field(default_factory=dict)
    datasets: dict[str, DatasetEntry] = Field(min_length=1)
    tasks: dict[str, TaskEntry] = Field(min_length=1)

    @field_validator("encoders", "features", "datasets", "tasks")
    @classmethod
    def _names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
                raise ValueError(f"the name '{name}' may hold only letters, digits, '.', '-' and '_'")
        return value

    @model_validator(mode="after")
    def _check(self) -> BatchConfig:
        if not self.encoders and not self.features:
            raise ValueError("names neither encoders nor features")
        if both := sorted(set(self.encoders) & set(self.features)):
            raise ValueError(f"'{both[0]}' is the name of an encoder and of features")
        for name, task in self.tasks.items():
            if task.command not in FORMS:
                raise ValueError(f"task {name}: unknown command '{task.command}'; known: {', '.join(FORMS)}")
            for kind, wanted, known in (
                ("encoders", task.encoders, [*self.encoders, *self.features]),
                ("datasets", task.datasets, list(self.datasets)),
            ):
                unknown = [w for w in wanted if w not in known]
                if unknown:
                    raise ValueError(f"task {name}: {kind} has no '{unknown[0]}'")
            if not FORMS[task.command].features and (files := set(task.encoders) & set(self.features)):
                raise ValueError(
                    f"task {name}: {task.command} takes encoders, and '{min(files)}' is a folder of features"
                )
            if not task.protocol:
                continue
            if task.protocol not in PROTOCOLS:
                raise ValueError(f"task {name}: unknown protocol '{task.protocol}'; known: {', '.join(PROTOCOLS)}")
            if task.command != "zero-shot":
                raise ValueError(f"task {name}: protocols are of zero-shot, not of {task.command}")
        return self


@dataclass(frozen=True)
class CommandForm:
    """How a command is asked: whether it learns (and takes splits to learn from), whether it takes features in place of
    an encoder, and how it is given a seed.
    """

    learns: bool
    features: bool
    seed: Callable[[int], list[str]]


def _plain_seed(seed: int) -> list[str]:
    return ["--seed", str(seed)]


#: The commands that a batch can run.
FORMS: dict[str, CommandForm] = {
    "zero-shot": CommandForm(False, True, _plain_seed),
    "instances": CommandForm(False, True, _plain_seed),
    "retrieval": CommandForm(False, True, _plain_seed),
    "probe": CommandForm(True, True, _plain_seed),
    "finetune": CommandForm(True, False, lambda s: ["--set", f"seed={s}", "--set", f"limit.seed={s}"]),
}


@dataclass(frozen=True)
class Cell:
    """One run of one command.

    encoder: the name of an encoder or of features; fold, protocol: "" where there are none; arguments are those of
    chorus-eval without --out.
    """

    task: str
    command: str
    encoder: str
    dataset: str
    seed: int
    fold: str
    arguments: tuple[str, ...]
    protocol: str = ""

    @property
    def name(self) -> str:
        """A file name of its own."""
        parts = [
            self.task,
            self.dataset,
            self.encoder,
            f"seed{self.seed}",
            *([f"fold{self.fold}"] if self.fold else []),
        ]
        return "__".join(parts)

    def result(self, out: Path) -> Path:
        """Where the cell's result lies in the batch folder `out`."""
        return out / "cells" / f"{self.name}.json"


def cells(config: BatchConfig) -> Iterator[Cell]:
    """All cells, in the order of the file: task, data set, encoder, seed, fold."""
    for task_name, task in config.tasks.items():
        form = FORMS[task.command]
        for dataset_name in task.datasets or config.datasets:
            dataset = config.datasets[dataset_name]
            folds = dataset.folds if form.learns and dataset.folds else {"": ""}
            every = [*config.encoders, *(config.features if form.features else ())]
            options = (PROTOCOLS[task.protocol].options if task.protocol else {}) | task.options
            for encoder in task.encoders or every:
                for seed in task.seeds:
                    for fold, pattern in folds.items():
                        arguments = [task.command, "--manifest", dataset.manifest]
                        arguments += [word for store in dataset.stores for word in ("--store", store)]
                        if form.learns:
                            arguments += [word for split in dataset.train_splits for word in ("--train-split", split)]
                        arguments += ["--split", dataset.split]
                        arguments += ["--hold-out", pattern] if pattern else []
                        if encoder in config.features:
                            arguments += ["--features", config.features[encoder]]
                        else:
                            arguments += ["--encoder", config.encoders[encoder]]
                        arguments += [*form.seed(seed), *words(options)]
                        yield Cell(
                            task_name, task.command, encoder, dataset_name, seed, fold, tuple(arguments), task.protocol
                        )


def words(options: Mapping[str, Option]) -> list[str]:
    """Options as the words of a command line; true = a flag, false = left out, a list = repeated."""
    found: list[str] = []
    for key, value in options.items():
        flag = f"-{key}" if len(key) == 1 else f"--{key.replace('_', '-')}"
        if isinstance(value, bool):
            found += [flag] if value else []
        else:
            for item in value if isinstance(value, list) else [value]:
                found += [flag, str(item)]
    return found
