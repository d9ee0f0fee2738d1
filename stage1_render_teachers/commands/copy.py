"""chorus-stage1 copy: published scenes and standardisers from one store to another."""

from __future__ import annotations

import json

import click

from chorus_common.runtime.atomic import create_bytes_atomically
from chorus_common.runtime.errors import EXIT_DONE, EXIT_SOME_FAILED, CacheError, ChorusError, one_line
from chorus_common.runtime.options import dataset_option, json_option, manifest_option, split_option, store_option
from chorus_common.runtime.progress import progress
from chorus_common.runtime.store_path import StorePath, StorePathType


@click.command("copy")
@store_option("Store to copy from: a folder, or s3://BUCKET/PATH.")
@click.option("--to", "target", required=True, type=StorePathType(), help="Store to copy to, likewise.")
@manifest_option(help="Only scenes of this manifest.")
@split_option("Only scenes of this split of the manifest.")
@dataset_option()
@json_option()
def copy_command(
    store: StorePath,
    target: StorePath,
    manifest: StorePath | None,
    split: str | None,
    dataset: str | None,
    as_json: bool,
) -> int:
    """Copy published scenes and standardisers to another store.

    The same command goes on where an earlier copy stopped.
    """
    from chorus_common.cache import copy_scene
    from stage1_render_teachers.store import prepare_store

    scenes = _scenes(store, manifest, split, dataset)
    prepare_store(target)
    copy_standardisers(store, target)
    copied, failed = 0, dict[str, str]()
    with progress(len(scenes), "copy") as report:
        for path in scenes:
            name = f"{path.parent.name}/{path.stem}"
            try:
                copied += copy_scene(path, target / path.parent.name / path.name)
            except ChorusError as error:
                failed[name] = one_line(error)
                report.say(f"failed: {name}: {failed[name]}")
            report.advance(note=f"{len(failed)} failed" if failed else "")
    there = len(scenes) - copied - len(failed)
    if as_json:
        click.echo(json.dumps({"copied": copied, "already_there": there, "failed": failed}))
    else:
        click.echo(f"{copied} scenes copied to {target}, {there} were there already, {len(failed)} failed")
    return EXIT_SOME_FAILED if failed else EXIT_DONE


def copy_standardisers(store: StorePath, target: StorePath) -> None:
    """Copy the teachers' standardisers. Raises CacheError where `target` has another one under the same name."""
    standardisers: list[StorePath] = list((store / "standardisers").glob("*.safetensors"))
    for path in standardisers:
        data, other = path.read_bytes(), target / "standardisers" / path.name
        if not create_bytes_atomically(other, data) and other.read_bytes() != data:
            raise CacheError(f"{other}: is another standardiser than {path}; copy to a store of its own")


def _scenes(store: StorePath, manifest: StorePath | None, split: str | None, dataset: str | None) -> list[StorePath]:
    """Published scenes of `store` that are asked for."""
    from chorus_common.cache.files import published_scenes
    from chorus_common.manifest import Manifest
    from stage1_render_teachers.rows import select_rows

    if manifest is None and split is not None:
        raise CacheError(f"--split {split} needs --manifest, which says which scenes are in it")
    found = [path for path in published_scenes(store) if dataset in (None, path.parent.name)]
    if manifest is not None:
        wanted = {(row.dataset, row.scene_id) for row in select_rows(Manifest.read(manifest), split, dataset)}
        found = [path for path in found if (path.parent.name, path.stem) in wanted]
    if not found:
        raise CacheError(f"--store {store}: holds none of the scenes that are asked for")
    return found
