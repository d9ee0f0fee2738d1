"""The import rule of docs/architecture.md, read from the source of every module."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEACHERS = {"open_clip", "timm", "transformers", "segment_anything", "skimage", "gsplat"}
FORBIDDEN = {
    "chorus_common": {"data_manifests", "stage1_render_teachers", "stage2_distill", "evaluation"} | TEACHERS,
    "data_manifests": {"stage1_render_teachers", "stage2_distill", "evaluation"} | TEACHERS,
    "stage1_render_teachers": {"data_manifests", "stage2_distill", "evaluation"},
    "stage2_distill": {"data_manifests", "stage1_render_teachers", "evaluation"} | TEACHERS,
    "evaluation": {"stage1_render_teachers"} | TEACHERS,
}

#: Exceptions, each for a reason. A class name must be encoded by the tower whose picture side made the features, and
#: zero-shot evaluation may not import stage 1: open_clip's text side lives in chorus_common, imported inside functions
#: so that stage 2 and everybody else never load it. GaussianCross needs gradients for the Gaussians themselves: on a
#: GPU gsplat gives them, imported inside the function that renders.
#: ConSE's two sides measure their vectors from the same class names, which timm lists.
ALLOWED = {
    "chorus_common/rasterize/gsplat_cuda.py": {"gsplat"},
    "chorus_common/text/conse_text.py": {"timm"},
    "chorus_common/text/open_clip_model.py": {"open_clip", "timm"},
    "chorus_common/text/open_clip_text.py": {"open_clip", "transformers"},
    "chorus_common/text/transformers_text.py": {"transformers"},
    "stage2_distill/gaussiancross/raster/gsplat_cuda.py": {"gsplat"},
}


def imported(source: str) -> set[str]:
    """Top-level packages that a module imports, lazily or not."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_import_only_what_the_rule_allows(package: str) -> None:
    modules = sorted((ROOT / package).rglob("*.py"))
    assert modules, f"{package} has no modules"
    broken = {
        str(path.relative_to(ROOT)): sorted(bad)
        for path in modules
        if (
            bad := imported(path.read_text(encoding="utf-8"))
            & FORBIDDEN[package] - ALLOWED.get(path.relative_to(ROOT).as_posix(), set())
        )
    }
    assert broken == {}


def test_the_rule_sees_lazy_and_nested_imports() -> None:
    source = "def f():\n    import timm.layers\n    from stage2_distill.encoder import build_encoder\n"
    assert imported(source) == {"timm", "stage2_distill"}


def test_exceptions_are_needed_and_load_nothing_by_themselves() -> None:
    for name, packages in ALLOWED.items():
        assert imported((ROOT / name).read_text(encoding="utf-8")) & TEACHERS == packages
    modules = [
        "chorus_common.text",
        *(name.removesuffix(".py").replace("/", ".") for name in ALLOWED),
    ]
    code = f"import sys, {', '.join(modules)}; print(sorted({TEACHERS!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
