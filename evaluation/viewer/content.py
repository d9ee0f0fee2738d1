"""From a scene's model to what its page holds: everything at once for a page to send, on request for a server."""

from __future__ import annotations

from collections.abc import Sequence

from chorus_common.runtime.errors import ConfigError
from evaluation.start_view import start_view
from evaluation.viewer.packed_splats import pack_splats
from evaluation.viewer.page import PageContent, html
from evaluation.viewer.scene_model import COLOUR, SceneModel


def note(model: SceneModel) -> str:
    """The line below the page's title."""
    return f"{len(model.scene.gaussians):,} Gaussians"


def shared_content(model: SceneModel, queries: Sequence[str] = (), heads: Sequence[str] = ()) -> PageContent:
    """Every layer of the scene, its objects where it has some, and the answers to `queries`.

    heads: which other heads of a student to show; each costs a byte and a half per Gaussian. Raises ConfigError for one
    that it does not have.
    """
    known = model.heads
    for head in heads:
        if head not in known:
            raise ConfigError(f"no other head '{head}'; known: {', '.join(known) or 'none'}")
    left_out = {mode for head, mode in known.items() if head not in heads}
    splats = pack_splats(model.scene.gaussians)
    layers = [model.layer(mode) for mode in model.modes if mode not in left_out]
    layers += [model.answer(query) for query in queries]
    return PageContent(
        name=model.scene.where.scene_id,
        note=note(model),
        splats=splats,
        start=start_view(model.scene),
        layers=tuple(layer.packed(splats.order) for layer in layers),
        objects=model.objects if model.has_objects else None,
    )


def live_content(model: SceneModel) -> PageContent:
    """The splats alone; layers and objects are made when the page asks for them."""
    live = {"text": model.answers_text, "features": model.has_features, "objects": model.has_objects}
    return PageContent(
        name=model.scene.where.scene_id,
        note=note(model),
        splats=pack_splats(model.scene.gaussians),
        start=start_view(model.scene),
        layers=tuple(({"name": mode} | ({} if mode == COLOUR else {"remote": True}), b"") for mode in model.modes),
        live=live,
    )


def shared_page(content: PageContent) -> str:
    """One file that needs nothing else."""
    return html(content, content.blocks())
