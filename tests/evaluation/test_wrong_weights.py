"""Weights that are not what they seem, at the command line: one line on stderr, exit code 2, nothing written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors

from chorus_common.scene_io import write_scene
from chorus_common.text import load_text_encoder
from evaluation import cli as evaluation_cli
from stage2_distill import cli as stage2_cli
from stage2_distill.encoder import build_encoder, export_encoder
from tests.evaluation.rooms import make_scene

GOLDEN = Path(__file__).parents[1] / "data" / "chorus_3dgs_small.pth"
NAME = "chorus-3dgs"
Change = Callable[[Path, pytest.MonkeyPatch], object]


def state_of_golden() -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(GOLDEN, weights_only=True)["state_dict"]
    return state


def written(path: Path, state: dict[str, torch.Tensor]) -> Path:
    torch.save({"state_dict": state}, path)
    return path


def truncated(folder: Path, _: pytest.MonkeyPatch) -> Path:
    (folder / "cut.pth").write_bytes(GOLDEN.read_bytes()[:100_000])
    return folder / "cut.pth"


def one_projector(folder: Path, _: pytest.MonkeyPatch) -> Path:
    return written(folder / "one.pth", {k: v for k, v in state_of_golden().items() if ".dino." not in k})


def another_width(folder: Path, _: pytest.MonkeyPatch) -> Path:
    cut = {k: v[:, :112] if k.endswith("mlp_head.0.weight") else v for k, v in state_of_golden().items()}
    return written(folder / "width.pth", cut)


def unknown_key(folder: Path, _: pytest.MonkeyPatch) -> Path:
    return written(folder / "key.pth", state_of_golden() | {"module.extra.weight": torch.zeros(2)})


def an_ordinary_pickle(folder: Path, _: pytest.MonkeyPatch) -> Path:
    torch.save(Path("anything"), folder / "pickle.pth")
    return folder / "pickle.pth"


def sonata(folder: Path, _: pytest.MonkeyPatch) -> Path:
    encoder = build_encoder("sonata", enc_channels=(16, 16, 32, 32, 48), enc_depths=(1,) * 5, upcast=2)
    return export_encoder(encoder, folder / "sonata.pth", "sonata") or folder / "sonata.pth"


def _hub_says(error: Callable[[], Exception]) -> Change:
    def change(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        def refuse(*_: Any, **__: Any) -> None:
            raise error()

        monkeypatch.delenv("CHORUS_CHECKPOINT_DIR", raising=False)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
        return NAME

    return change


gated = _hub_says(lambda: errors.GatedRepoError.__new__(errors.GatedRepoError))
no_network = _hub_says(lambda: errors.LocalEntryNotFoundError("no connection"))


def nowhere(folder: Path, _: pytest.MonkeyPatch) -> Path:
    return folder / "nowhere.pth"


def no_text_side(_: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights are there; those of SigLIP 2 are not, and there is no network."""
    monkeypatch.setattr("evaluation.features.load_text_encoder", load_text_encoder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return GOLDEN


def no_text_package(_: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("evaluation.features.load_text_encoder", load_text_encoder)
    monkeypatch.setitem(sys.modules, "transformers", None)
    return GOLDEN


WRONG: list[tuple[Change, str]] = [
    (truncated, "cut.pth: not a readable checkpoint"),
    (one_projector, "one.pth: has no projector 'dino' (it has lang)"),
    (another_width, "takes 112 channels, the encoder's 5 levels give 144"),
    (unknown_key, "key.pth: neither the encoder nor a projector takes extra.weight"),
    (an_ordinary_pickle, "pickle.pth: "),
    (
        gated,
        "chorus-3dgs: SceneSplatPro/Chorus is gated: accept its terms on https://huggingface.co/SceneSplatPro/Chorus",
    ),
    (no_network, "chorus-3dgs: not in the hub's cache, and the hub cannot be reached"),
    (nowhere, "nowhere.pth: no such file or folder"),
]


def refused(
    arguments: list[object], main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: Any, out: Path
) -> str:
    """The one line that a program says before it ends with exit code 2."""
    monkeypatch.setattr(sys, "argv", ["chorus", *map(str, arguments), "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = [line for line in capsys.readouterr().err.splitlines() if ": note: " not in line]
    assert ended.value.code == 2, said
    assert len(said) == 1, said
    assert said[0].startswith("error: ")
    assert not out.exists()
    return str(said[0])


@pytest.fixture
def room(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    write_scene(make_scene(0, labels=False), tmp_path / "in" / "room.ply")
    return tmp_path / "in" / "room.ply"


@pytest.mark.parametrize(("change", "message"), WRONG, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("command", ["query", "encode"])
def test_wrong_weights(
    command: str, change: Change, message: str, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    encoder = change(tmp_path, monkeypatch)
    arguments = ["query", room, "chair"] if command == "query" else ["encode", room, "--output", "lang"]
    main = evaluation_cli.main if command == "query" else stage2_cli.main
    said = refused([*arguments, "--encoder", encoder, "--device", "cpu"], main, monkeypatch, capsys, tmp_path / "out")
    assert message in said


def test_sonata_has_no_language(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = sonata(tmp_path, monkeypatch)
    asked = ["--encoder", file, "--device", "cpu"]
    said = refused(["query", room, "chair", *asked], evaluation_cli.main, monkeypatch, capsys, tmp_path / "out")
    assert "does not say whose text space it answers to; give --text SPEC or --text-embeddings FILE" in said
    said = refused(["encode", room, *asked, "--output", "lang"], stage2_cli.main, monkeypatch, capsys, tmp_path / "out")
    assert "lang" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_text_side, "open_clip:ViT-SO400M-14-SigLIP2-378:webli: cannot get its weights"),
        (no_text_package, "pip install transformers"),
    ],
)
def test_no_text_side(
    change: Change, message: str, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    encoder = change(tmp_path, monkeypatch)
    arguments = ["query", room, "chair", "--encoder", encoder, "--device", "cpu"]
    said = refused(arguments, evaluation_cli.main, monkeypatch, capsys, tmp_path / "out")
    assert message in said
    assert said.endswith("or name a copy with --text, or vectors with --text-embeddings")
