"""The report as one HTML file that needs nothing else: pictures are embedded, there is no script that fetches
anything.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from evaluation.report.pictures import Panel, ViewPictures


@dataclass(frozen=True)
class Table:
    """A table with the command that made it. Cells are text already; `note` is a sentence below."""

    title: str
    command: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Card:
    """A figure of the summary: what, how much, and beside what to read it."""

    label: str
    value: str
    beside: str


@dataclass(frozen=True)
class Chart:
    """A chart and its sentence."""

    caption: str
    png: bytes


def page(
    title: str,
    subtitle: str,
    cards: Sequence[Card],
    tables: Sequence[Table],
    views: Sequence[ViewPictures],
    charts: Sequence[Chart],
    command: str,
    gallery: Sequence[ViewPictures] = (),
) -> str:
    """The whole document. Every text is escaped here and nowhere else."""
    parts = [_head(title, subtitle), _cards(cards)]
    if views:
        parts.append("<section><h2>One scene, through teacher and student</h2>")
        parts += [_view(view) for view in views]
        parts.append("</section>")
    if gallery:
        parts.append("<section><h2>Where it fails most</h2>" + "".join(map(_view, gallery)) + "</section>")
    parts.append("<section><h2>Tables</h2>" + "".join(_table(t) for t in tables) + "</section>")
    if charts:
        parts.append("<section><h2>Charts</h2>" + "".join(_chart(c) for c in charts) + "</section>")
    parts.append(f"<footer>Made by <code>{escape(command)}</code></footer>")
    parts.append(_LIGHTBOX)
    body = "\n".join(parts)
    head = f'<meta charset="utf-8"><title>{escape(title)}</title>\n{_META}\n<style>{_CSS}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><main>\n{body}\n</main></body></html>\n'


def _head(title: str, subtitle: str) -> str:
    return f"<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>"


def _cards(cards: Sequence[Card]) -> str:
    inner = "".join(
        f'<div class="card"><span>{escape(c.label)}</span><strong>{escape(c.value)}</strong>'
        f"<em>{escape(c.beside)}</em></div>"
        for c in cards
    )
    return f'<div class="cards">{inner}</div>' if cards else ""


def _view(view: ViewPictures) -> str:
    rows = "".join(f'<div class="row">{"".join(map(_panel, row))}</div>' for row in view.rows)
    legend = "".join(f'<span><i style="background:{escape(c)}"></i>{escape(name)}</span>' for name, c in view.legend)
    return f'<article><h3>{escape(view.name)}</h3>{rows}<p class="legend">{legend}</p></article>'


def _panel(panel: Panel) -> str:
    return (
        f'<figure><img src="{_source(panel.png)}" alt="{escape(panel.title)}" loading="lazy">'
        f"<figcaption><b>{escape(panel.title)}</b><span>{escape(panel.caption)}</span></figcaption></figure>"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in table.header)
    rows = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in table.rows)
    note = f"<p>{escape(table.note)}</p>" if table.note else ""
    body = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return (
        f'<article><h3>{escape(table.title)}</h3><div class="scroll">{body}</div>'
        f"{note}<pre>{escape(table.command)}</pre></article>"
    )


def _chart(chart: Chart) -> str:
    return (
        f'<figure class="chart"><img src="{_source(chart.png)}" alt="{escape(chart.caption)}" loading="lazy">'
        f"<figcaption><span>{escape(chart.caption)}</span></figcaption></figure>"
    )


def _source(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


_META = '<meta name="viewport" content="width=device-width, initial-scale=1">'

_CSS = """
:root{--ink:#0f172a;--soft:#64748b;--line:#e2e8f0;--paper:#f8fafc;--card:#fff;--accent:#2563eb}
@media(prefers-color-scheme:dark){:root{--ink:#e2e8f0;--soft:#94a3b8;--line:#1e293b;--paper:#0b1120;--card:#111a2e;--accent:#60a5fa}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.55 ui-sans-serif,system-ui,"Segoe
UI",Roboto,sans-serif} main{max-width:1280px;margin:0 auto;padding:40px 24px 64px}
h1{font-size:30px;letter-spacing:-.02em;margin:0}
header p{color:var(--soft);margin:6px 0 0}
h2{font-size:20px;letter-spacing:-.01em;margin:44px 0 14px}
h3{font-size:14px;margin:0 0 12px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:14px;margin-top:28px}
.card,article,.chart{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:18px;box-shadow:0
1px 2px rgb(15 23 42/5%)} .card span,.card em{display:block;color:var(--soft);font-style:normal;font-size:13px}
.card strong{font-size:30px;letter-spacing:-.02em;font-variant-numeric:tabular-nums;color:var(--accent)}
article{margin-bottom:16px}
.row{display:grid;grid-template-columns:repeat(5,1fr);gap:10px;margin-bottom:10px}
@media(max-width:900px){.row{grid-template-columns:repeat(2,1fr)}}
figure{margin:0}
figure img{width:100%;display:block;border-radius:8px;cursor:zoom-in}
figcaption{padding:6px 2px 0;font-size:12.5px;line-height:1.35}
figcaption span{display:block;color:var(--soft)}
.chart{margin-bottom:16px}
.chart img{background:#fff;max-width:1000px;margin:0 auto}
.legend{display:flex;flex-wrap:wrap;gap:4px 14px;margin:8px 0 0;font-size:12.5px;color:var(--soft)}
.legend i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:5px;vertical-align:-1px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
th,td{padding:7px 10px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--soft);font-weight:600;font-size:12.5px}
th:first-child,td:first-child{text-align:left}
tbody tr:last-child td{border-bottom:0}
article p{color:var(--soft);font-size:13px;margin:10px 0 0}
pre{background:var(--paper);border:1px solid var(--line);border-radius:8px;padding:9px 12px;margin:12px 0
0;overflow-x:auto;font:12px/1.5 ui-monospace,Menlo,Consolas,monospace}
footer{margin-top:36px;color:var(--soft);font-size:12.5px} dialog{border:0;padding:0;background:none;max-width:96vw}
dialog
img{max-width:96vw;max-height:92vh;min-width:min(900px,90vw);border-radius:10px;cursor:zoom-out;image-rendering:auto}
dialog::backdrop{background:rgb(2 6 23/82%)}
"""

_LIGHTBOX = """<dialog id="box"><img alt=""></dialog>
<script>
const box=document.getElementById("box");
document.querySelectorAll("figure img").forEach(i=>i.onclick=()=>{box.firstChild.src=i.src;box.showModal()});
box.onclick=()=>box.close();
</script>"""
