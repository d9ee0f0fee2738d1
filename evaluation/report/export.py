"""Tables as Markdown and LaTeX text; every cell is escaped here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
}


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table; text left, everything else right."""
    body = [header, *rows]
    lines = ["| " + " | ".join(_markdown(c) for c in row) + " |" for row in body]
    rule = (
        "|" + "|".join(" ---: " if i and _numeric([r[i] for r in rows]) else " --- " for i in range(len(header))) + "|"
    )
    return "\n".join([lines[0], rule, *lines[1:]])


def latex_table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A table with booktabs' rules; the first column left, the others right where they hold numbers."""
    kinds = "".join("r" if i and _numeric([r[i] for r in rows]) else "l" for i in range(len(header)))
    lines = [r"\begin{table}", r"  \centering", rf"  \caption{{{_latex(caption)}}}", rf"  \begin{{tabular}}{{{kinds}}}"]
    lines += [r"    \toprule", f"    {_latex_row(header)}", r"    \midrule"]
    lines += [f"    {_latex_row(row)}" for row in rows]
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}", ""])


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(_latex(c) for c in cells) + r" \\"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in " ".join(text.split()))


def _markdown(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _numeric(cells: Sequence[str]) -> bool:
    """Whether a column holds numbers (with a spread, or missing) and nothing else."""
    plain = [c.replace("±", "").replace("–", "").replace("-", "").replace(".", "").replace(" ", "") for c in cells]
    return any(plain) and all(not c or c.isdigit() for c in plain)
