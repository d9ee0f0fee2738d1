"""The README.md of a student's folder: a model card, with the front matter that the Hugging Face hub reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stage2_distill.hub import Origin

if TYPE_CHECKING:
    from stage2_distill.student import StudentConfig


def model_card(config: StudentConfig, n_parameters: int, notes: str) -> str:
    """README.md of a student's folder, with the front matter that the hub reads: what it is, what it eats, what it
    gives, how to use it, where its weights come from and under which licence.

    n_parameters: of the encoder.
    """
    encoder, origin = config.encoder, config.origin
    rows = [f"| {n} | `{t.spec}` | {t.channels} | {t.fingerprint} |" for n, t in config.teachers.items()]
    return "\n".join(
        [
            *_front_matter(origin),
            "# Chorus student",
            "",
            f"A feed-forward 3D encoder ({encoder.name}, {n_parameters:,} parameters) and one projector per teacher.",
            "",
            f"Input: {', '.join(encoder.inputs.features)} per voxel of {encoder.inputs.grid_size:g} m, colours "
            f"{'[0, 1]' if encoder.inputs.color_range == 'unit' else '[-1, 1]'}.",
            f"Output: {encoder.out_channels} channels per Gaussian, and per teacher:",
            "",
            "| teacher | spec | channels | fingerprint |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
            "```python",
            "from stage2_distill.student import load_student",
            'student = load_student("this/folder")   # or "hf:OWNER/REPO", once it is pushed there',
            "```",
            "",
            *_origin_lines(origin),
            notes,
        ]
    )


def _front_matter(origin: Origin | None) -> list[str]:
    """What the hub shows beside a model card; a licence only where one is known."""
    licence = "" if origin is None else origin.licence
    name = [f"license: {licence.lower().replace(' ', '-')}"] if licence else []
    base = [f"base_model: {origin.repository}"] if origin is not None and origin.repository else []
    tags = ["tags:", "- 3d-gaussian-splatting", "- feature-extraction"]
    return ["---", *name, *base, *tags, "---", ""]


def _origin_lines(origin: Origin | None) -> list[str]:
    if origin is None:
        return []
    place = " ".join(filter(None, [origin.repository, origin.file, origin.revision])) or origin.name
    licence = origin.licence or "not stated; see where the file comes from"
    return [
        "## Origin of the weights",
        "",
        f"Made from {place} ({origin.bytes:,} bytes, sha256 {origin.sha256}).",
        f"Licence of those weights: {licence}.",
        "",
    ]
