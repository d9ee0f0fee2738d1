"""The viewer's page: one HTML file with style, scripts and, for a page to send, everything that they show.

The renderer is our own (web/*.js, WebGL 2). Those that package registries serve weigh more than the scenes that they
would be sent with (docs/experiments/scenes.md).
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import Any

from evaluation.start_view import StartView
from evaluation.viewer.objects import Objects
from evaluation.viewer.packed_splats import PackedSplats

#: Scripts of the page, in the order in which they need each other.
SCRIPTS = ("decode.js", "renderer.js", "camera.js", "pick.js", "path.js", "panel.js", "main.js")
#: The script of the thread that sorts.
SORTER = "sorter.js"
#: Runs scripts that lie in the page deflated. They are evaluation/viewer/web/*.js, one after the other.
_INFLATED = """<script type="text/plain" id="code">CODE</script>
<script type="module">
const bytes = Uint8Array.from(atob(document.getElementById("code").textContent), (c) => c.charCodeAt(0));
const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
const script = document.createElement("script");
script.textContent = "{" + (await new Response(stream).text()) + "}";
document.body.append(script);
</script>"""


@dataclass(frozen=True, eq=False)
class PageContent:
    """What a page shows.

    name, note: its title, and a line below. layers: (header, deflated planes) of `Layer.packed`, or a header alone with
    "remote" where a server is to be asked. live: what a server answers, None for a page without one.
    """

    name: str
    note: str
    splats: PackedSplats
    start: StartView
    layers: tuple[tuple[dict[str, Any], bytes], ...]
    objects: Objects | None = None
    live: dict[str, bool] | None = None

    def blocks(self) -> dict[str, bytes]:
        """Deflated bytes by name."""
        blocks = dict(self.splats.blocks)
        for i, (_, planes) in enumerate(self.layers):
            if planes:
                blocks[f"layer{i}"] = planes
        if self.objects is not None:
            described = json.dumps(self.objects.described, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
            blocks["described"] = zlib.compress(described.encode(), 9)
            blocks["objects"] = self.objects.packed(self.splats.order)
        return blocks

    def document(self) -> dict[str, Any]:
        """All but the blocks, for JSON."""
        layers = [header | ({"block": f"layer{i}"} if planes else {}) for i, (header, planes) in enumerate(self.layers)]
        return {
            "name": self.name,
            "note": self.note,
            "splats": self.splats.header,
            "start": {"eye": self.start.eye.round(5).tolist(), "target": self.start.target.round(5).tolist()},
            "layers": layers,
            "objects": self.objects is not None,
            "live": self.live,
        }


def html(content: PageContent, embedded: Mapping[str, bytes]) -> str:
    """The page; `embedded`: blocks that lie in it, the others are asked of the server that it came from."""
    document = json.dumps(content.document(), allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>{escape(content.name)}</title>\n<style>\n{_read('style.css')}</style></head>",
        '<body><canvas id="canvas" tabindex="0"></canvas><aside id="panel"></aside>',
        f'<script type="application/json" id="scene">{document.replace("<", chr(92) + "u003c")}</script>',
        f'<script type="text/plain" id="sorter">\n{_script(SORTER)}</script>',
    ]
    for name, data in embedded.items():
        parts.append(f'<script type="text/plain" id="block-{name}">{base64.b64encode(data).decode("ascii")}</script>')
    scripts = "".join(map(_script, SCRIPTS))
    if embedded:  # a page to send is as small as it can be
        parts.append(_INFLATED.replace("CODE", base64.b64encode(zlib.compress(scripts.encode(), 9)).decode("ascii")))
    else:
        parts.append(f'<script type="module">\n{scripts}</script>')
    return "\n".join(parts) + "\n</body></html>\n"


def _read(name: str) -> str:
    return (resources.files("evaluation.viewer") / "web" / name).read_text(encoding="utf-8")


def _script(name: str) -> str:
    """A script without its comments and the spaces that begin its lines."""
    lines = (line.strip() for line in _read(name).splitlines())
    return "".join(line + "\n" for line in lines if line and not line.startswith("//"))
