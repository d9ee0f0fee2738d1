"""2D teachers, built from spec strings ("family:model[:weights]")."""

from __future__ import annotations

from collections.abc import Callable

from chorus_common.runtime.errors import ConfigError, did_you_mean
from stage1_render_teachers.teachers.protocol import DenseTeacher, MaskTeacher, Teacher, teacher_name

__all__ = ["DenseTeacher", "MaskTeacher", "Teacher", "build_teacher", "known_teachers", "teacher_name"]


def _embedded_text(argument: str, device: str) -> Teacher:
    from stage1_render_teachers.teachers.text_aligned import TextAlignedTeacher

    return TextAlignedTeacher(device=device)


def _embedded_dense(argument: str, device: str) -> Teacher:
    from stage1_render_teachers.teachers.dense_classical import ClassicalDenseTeacher

    return ClassicalDenseTeacher()


def _embedded_objects(argument: str, device: str) -> Teacher:
    from stage1_render_teachers.teachers.object_aware import ObjectAwareTeacher

    return ObjectAwareTeacher(device=device)


def _embedded_masks(argument: str, device: str) -> Teacher:
    from stage1_render_teachers.teachers.masks_classical import ClassicalMaskTeacher

    return ClassicalMaskTeacher()


def _open_clip(argument: str, device: str) -> Teacher:
    from stage1_render_teachers.teachers.open_clip_teacher import build_open_clip_teacher

    return build_open_clip_teacher(argument, device)


def _timm(argument: str, device: str) -> Teacher:
    from stage1_render_teachers.teachers.timm_teacher import build_timm_teacher

    return build_timm_teacher(argument, device)


def _sam(argument: str, device: str) -> Teacher:
    from stage1_render_teachers.teachers.sam_dense import build_sam_dense

    return build_sam_dense(argument, device)


def _sam_masks(argument: str, device: str) -> Teacher:
    from stage1_render_teachers.teachers.sam_masks import build_sam_masks

    return build_sam_masks(argument, device)


def _sam_density_masks(argument: str, device: str) -> Teacher:
    from stage1_render_teachers.teachers.sam_masks import build_sam_density_masks

    return build_sam_density_masks(argument, device)


def _sam2(argument: str, device: str) -> Teacher:
    from stage1_render_teachers.teachers.sam2_model import build_sam2_dense

    return build_sam2_dense(argument, device)


def _sam2_masks(argument: str, device: str) -> Teacher:
    from stage1_render_teachers.teachers.sam2_model import build_sam2_masks

    return build_sam2_masks(argument, device)


def _sam2_density_masks(argument: str, device: str) -> Teacher:
    from stage1_render_teachers.teachers.sam2_model import build_sam2_density_masks

    return build_sam2_density_masks(argument, device)


def _sam_onnx(argument: str, device: str) -> Teacher:
    from stage1_render_teachers.teachers.sam_onnx import build_sam_onnx

    return build_sam_onnx(argument, device)


def _sam_onnx_density(argument: str, device: str) -> Teacher:
    from stage1_render_teachers.teachers.sam_onnx import build_sam_onnx_density

    return build_sam_onnx_density(argument, device)


def _conse(argument: str, device: str) -> Teacher:
    from stage1_render_teachers.teachers.conse import build_conse

    return build_conse(argument, device)


#: spec, or its family with a colon ("timm:"), -> builder(rest of the spec, device). Imports happen inside the builders:
#: nobody pays for the teachers that do not run.
_BUILDERS: dict[str, Callable[[str, str], Teacher]] = {
    "embedded:text": _embedded_text,
    "embedded:dense": _embedded_dense,
    "embedded:objects": _embedded_objects,
    "embedded:masks": _embedded_masks,
    "open_clip:": _open_clip,
    "timm:": _timm,
    "sam:": _sam,
    "sam-masks:": _sam_masks,
    "sam-density-masks:": _sam_density_masks,
    "sam2:": _sam2,
    "sam2-masks:": _sam2_masks,
    "sam2-density-masks:": _sam2_density_masks,
    "sam-onnx:": _sam_onnx,
    "sam-onnx-density:": _sam_onnx_density,
    "conse:": _conse,
}


def known_teachers() -> tuple[str, ...]:
    """Specs (or families, ending in a colon) that `build_teacher` knows."""
    return tuple(sorted(_BUILDERS))


def build_teacher(spec: str, device: str = "cpu") -> Teacher:
    """The frozen teacher that `spec` names, on `device` ("cpu", "cuda", "cuda:1").

    Raises ConfigError with the nearest name for an unknown spec, WeightsError where weights are missing or do not fit.

    >>> build_teacher("embedded:mask")
    Traceback (most recent call last):
    chorus_common.runtime.errors.ConfigError: unknown teacher 'embedded:mask'; did you mean 'embedded:masks'? ...
    """
    if spec in _BUILDERS:
        return _BUILDERS[spec]("", device)
    family, _, argument = spec.partition(":")
    if argument and f"{family}:" in _BUILDERS:
        return _BUILDERS[f"{family}:"](argument, device)
    hint = did_you_mean(spec, known_teachers())
    raise ConfigError(f"unknown teacher '{spec}'{hint} Known: {', '.join(known_teachers())}")
