"""Reference pages of the Python packages: one per package for its public names, one per subpackage for the rest.

The text comes from the docstrings; mkdocstrings reads them from the source without importing it.
"""

from __future__ import annotations

from pathlib import Path

_ROOT = Path(__file__).parents[2]
_PACKAGES = ("chorus_common", "data_manifests", "stage1_render_teachers", "stage2_distill", "evaluation")
#: Command lines have pages of their own.
_LEFT_OUT = {"cli", "commands", "__main__", "__pycache__"}


def python_pages() -> dict[str, str]:
    """Path of a page below docs/ -> its Markdown."""
    pages: dict[str, str] = {}
    for package in _PACKAGES:
        pages[f"reference/python/{package}.md"] = _package_page(package)
        for folder in sorted((_ROOT / package).iterdir()):
            if folder.name not in _LEFT_OUT and (folder / "__init__.py").exists():
                pages[f"reference/python/{package}.{folder.name}.md"] = _page(f"{package}.{folder.name}")
    return pages


def _page(name: str) -> str:
    """Names that a subpackage re-exports are shown once, in the module they live in."""
    folder = _ROOT.joinpath(*name.split("."))
    inside = [path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    modules = ", ".join(sorted(set(inside) - {*_LEFT_OUT, "__init__"}))
    options = f"      show_root_heading: false\n      show_root_toc_entry: false\n      members: [{modules}]\n"
    return f"# {name}\n\n::: {name}\n    options:\n{options}"


def _package_page(package: str) -> str:
    modules = sorted(path.stem for path in (_ROOT / package).glob("*.py") if path.stem not in {*_LEFT_OUT, "__init__"})
    head = f"# {package}\n\n::: {package}\n    options:\n      show_root_heading: false\n      show_submodules: false\n"
    return head + "".join(f"\n::: {package}.{module}\n" for module in modules)
