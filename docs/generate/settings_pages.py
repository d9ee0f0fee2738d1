"""Reference pages of every setting, from the typed configs: name, type, default, bounds, meaning."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

#: (page, title, what it says first, the config classes it lists as module:class)
_PAGES = (
    (
        "settings-stage1", "Settings of stage 1",
        "`chorus-stage1 run` and `calibrate` read these keys from `--config FILE.toml` and from `--set key=value`.",
        ("stage1_render_teachers.settings:Stage1Config",),
    ),
    (
        "settings-import", "Settings of imports",
        "`chorus-stage1 import` reads these keys from `--config FILE.toml` and from `--set key=value`.",
        ("stage1_render_teachers.exchange.settings:ImportConfig",),
    ),
    (
        "settings-cluster", "Settings of Slurm jobs",
        "`chorus-stage1 run --scheduler slurm --slurm FILE.toml` reads these keys.",
        ("chorus_common.cluster.slurm_jobs:SlurmConfig",),
    ),
    (
        "settings-train", "Settings of training and adaptation",
        "`chorus-stage2 train` and `adapt` read these keys from `--config FILE.toml` and from `--set key=value`.",
        ("stage2_distill.settings:TrainConfig", "stage2_distill.settings:AdaptConfig"),
    ),
    (
        "settings-encoder", "Settings of the encoder",
        "Fields of an encoder's `config.json`. A training run changes them below `encoder.overrides`.",
        ("stage2_distill.encoder.config:EncoderConfig",),
    ),
    (
        "settings-gaussiancross", "Settings of GaussianCross",
        "`chorus-stage2 gaussiancross` reads these keys.",
        ("stage2_distill.gaussiancross.settings:GaussianCrossConfig",),
    ),
    (
        "settings-field", "Settings of language fields",
        "`chorus-stage2 field train` reads these keys.",
        ("stage2_distill.fields.settings:FieldConfig",),
    ),
    (
        "settings-finetune", "Settings of fine-tuning",
        "`chorus-eval finetune` reads these keys.",
        ("evaluation.finetuning.settings:FineTuneConfig",),
    ),
    (
        "settings-batch", "Settings of a batch",
        "`chorus-eval batch --config FILE.toml` reads these keys.",
        ("evaluation.batch.matrix:BatchConfig",),
    ),
    (
        "settings-data", "Settings of data sets",
        "Descriptions for `chorus-data index`, releases for `chorus-data prepare`, rooms of `chorus-data synth`.",
        (
            "data_manifests.index:DatasetDescription", "data_manifests.datasets.settings:PrepareConfig",
            "data_manifests.synthetic.options:RoomOptions", "chorus_common.scene_io.point_gaussians:PointCloudOptions",
        ),
    ),
)  # fmt: skip


def settings_pages() -> dict[str, str]:
    """Path of a page below docs/ -> its Markdown."""
    return {f"reference/{page}.md": _page(title, first, classes) for page, title, first, classes in _PAGES}


def _page(title: str, first: str, classes: tuple[str, ...]) -> str:
    parts = [f"# {title}", first, "A dot in a key means a TOML table: `data.max_points` is `max_points` in `[data]`."]
    shown: set[type[BaseModel]] = set()
    for target in classes:
        module, name = target.split(":")
        config = getattr(importlib.import_module(module), name)
        for prefix, model in _models(config):
            if model in shown:
                continue
            shown.add(model)
            parts += [
                f"## {prefix.rstrip('.') or name}",
                f"`{model.__name__}`: {_summary(model)}",
                _table(prefix, model),
            ]
    return "\n\n".join(parts) + "\n"


def _models(config: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """A config and all nested in it, each with the prefix of its keys; NAME stands for a name that the user gives."""
    yield prefix, config
    for name, field in config.model_fields.items():
        nested = list(_nested(field.annotation))
        for model, named in nested:
            variant = f"({model.__name__})" if len(nested) > 1 else ""
            yield from _models(model, f"{prefix}{name}{variant}." + ("NAME." if named else ""))


def _nested(annotation: Any, named: bool = False) -> Iterator[tuple[type[BaseModel], bool]]:
    if isinstance(annotation, type) and not get_args(annotation):
        if issubclass(annotation, BaseModel):
            yield annotation, named
        return
    is_table = getattr(annotation, "__origin__", None) is dict
    for argument in get_args(annotation):
        yield from _nested(argument, named or is_table)


def _table(prefix: str, model: type[BaseModel]) -> str:
    meanings = attribute_texts(model)
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in model.model_fields.items():
        meaning = field.description or meanings.get(name) or _told_elsewhere(name, meanings)
        rows.append(f"| `{prefix}{name}` | {_cell(_type(field))} | {_cell(_default(field))} | {_cell(meaning)} |")
    return "\n".join(rows)


def attribute_texts(model: type[BaseModel]) -> dict[str, str]:
    """Meanings of a config's fields, from the `Attributes:` part of its docstring and of its standardisers' docstrings.

    An entry is `name: text` or `name, name: text`; several entries may share a line.
    """
    texts: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            texts |= _comments(base)
        _, _, attributes = (inspect.cleandoc(base.__doc__ or "")).partition("Attributes:")
        if not (attributes and issubclass(base, BaseModel) and base.model_fields):
            continue
        names = "|".join(map(re.escape, base.model_fields))
        flat = " ".join(attributes.split())
        entry = re.compile(rf"(?:^|(?<=\S )|(?<=\.))((?:{names})(?:(?:, | and )(?:{names}))*): ")
        found = list(entry.finditer(flat))
        for match, following in zip_longest(found, found[1:]):
            end = following.start() if following else len(flat)
            for name in re.split(r", | and ", match[1]):
                texts[name] = flat[match.end() : end].strip()
    return texts


def _comments(model: type[BaseModel]) -> dict[str, str]:
    """Meanings of fields that stand in `#:` comments above them."""
    found = re.findall(r"((?: +#: .*\n)+) +(\w+):", inspect.getsource(model))
    return {name: " ".join(re.sub(r"\s*#: ", " ", lines).split()) for lines, name in found}


def _told_elsewhere(name: str, meanings: dict[str, str]) -> str:
    """A key that another key's entry explains."""
    return next((f"see `{other}`" for other, text in meanings.items() if re.search(rf"\b{name}\b", text)), "")


def _summary(model: type[BaseModel]) -> str:
    doc = inspect.cleandoc(model.__doc__ or "").partition("Attributes:")[0]
    return " ".join(doc.split()) or ""


def _type(field: FieldInfo) -> str:
    text = inspect.formatannotation(field.annotation) if field.annotation is not None else ""
    text = re.sub(r"\b(?:[a-z_0-9]+\.)+(?=[A-Za-z])", "", text).replace("Annotated", "")
    text = re.sub(r"\[(\w+), FieldInfo\([^)]*\)(?:\]\))?\]?", r"\1", text)
    bounds = [
        f"{sign} {getattr(item, name):g}"
        for item in field.metadata
        for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
        if getattr(item, name, None) is not None
    ]
    return f"`{text}`" + (f" {', '.join(bounds)}" if bounds else "")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        return "see below"
    if value is PydanticUndefined or value is None:
        return "none"
    try:
        return f"`{json.dumps(value, ensure_ascii=False)}`"
    except TypeError:
        return f"`{value}`"


def _cell(text: str) -> str:
    """Text for a cell of a table. Markdown takes <words> for HTML; between backticks it does not."""
    parts = " ".join(text.split()).replace("|", "\\|").split("`")
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)
