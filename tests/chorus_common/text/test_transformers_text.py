"""SigLIP 2's text side through transformers: the numbers of open_clip's side of the same weights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from chorus_common.runtime.errors import ConfigError, WeightsError
from chorus_common.text import load_text_encoder
from chorus_common.text.encoders import is_text_side
from chorus_common.text.transformers_text import SAME_WEIGHTS, TransformersTextEncoder, canonical, here_instead
from tests.chorus_common.text.siglip_files import NAME, OUT, TEXTS, write_open_clip, write_transformers

RELEASED = "open_clip:ViT-SO400M-14-SigLIP2-378:webli"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """(open_clip's file, transformers' folder) of the same random weights."""
    folder = tmp_path_factory.mktemp("siglip")
    before = list(open_clip.factory._MODEL_CONFIG_PATHS)
    own = write_open_clip(folder / "open_clip")
    yield own, write_transformers(folder / "transformers", load_file(own))
    open_clip.factory._MODEL_CONFIG_PATHS[:] = before
    open_clip.factory._MODEL_CONFIGS.pop(NAME)


def test_both_sides_give_the_same_vectors(files: tuple[Path, Path]) -> None:
    own, folder = files
    ours = load_text_encoder(f"open_clip:{NAME}:{own}")
    theirs = load_text_encoder(f"transformers:{folder}")
    assert (theirs.spec, theirs.channels, theirs.pair) == (f"transformers:{folder}", OUT, "")
    texts = TEXTS * 12  # more than one batch
    a, b = ours.encode(texts), theirs.encode(texts)
    assert a.dtype == b.dtype == np.float32
    np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(b, axis=1), 1, atol=1e-6)
    assert np.abs(b[0] - b[1]).max() > 1e-2  # texts do matter
    assert theirs.encode([]).shape == (0, OUT)


def test_the_padding_is_looked_at(files: tuple[Path, Path]) -> None:
    """As in training. A twin that masks it, as transformers' tokenizers offer, gives other vectors."""
    encoder = TransformersTextEncoder(f"transformers:{files[1]}")
    ids = encoder._tokenize(["a chair"])
    assert ids.shape == (1, 64)
    assert ids[0, -1] == 0
    with torch.inference_mode():
        masked = encoder._network(input_ids=ids, attention_mask=(ids != 0).long()).pooler_output
        plain = encoder._network(input_ids=ids).pooler_output
    np.testing.assert_allclose(
        torch.nn.functional.normalize(plain, dim=-1).numpy(), encoder.encode(["A chair"]), atol=1e-6
    )
    assert float((masked - plain).abs().max()) > 1e-3


@pytest.mark.parametrize("text", [*TEXTS, "a-b_c  D.E", "what's\tthis?"])
def test_texts_are_cleaned_as_open_clip_does(text: str) -> None:
    assert canonical(text) == open_clip.tokenizer.canonicalize_text(text)


def test_whichever_weights_are_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = SAME_WEIGHTS[RELEASED]
    for cached, expected in (
        (set(), None),
        ({own}, None),
        ({own, other}, None),
        ({other}, "transformers:google/siglip2-so400m-patch14-384"),
    ):
        monkeypatch.setattr(
            "huggingface_hub.try_to_load_from_cache",
            lambda repository, file, cached=cached: "/there" if repository in cached else None,
        )
        assert here_instead(RELEASED) == here_instead(RELEASED + "@bf16") == expected
        assert here_instead("open_clip:ViT-B-16-SigLIP2:webli") is None
        assert here_instead("open_clip:ViT-SO400M-14-SigLIP2-378:webli=mine.safetensors") is None


def test_open_clip_knows_the_released_model() -> None:
    _, name, tag = RELEASED.split(":")
    config = open_clip.get_model_config(name)
    assert open_clip.get_pretrained_cfg(name, tag)["hf_hub"].strip("/") == SAME_WEIGHTS[RELEASED][0]
    assert (config["embed_dim"], config["text_cfg"]["context_length"]) == (1152, 64)


@pytest.mark.parametrize(
    ("text", "teacher", "fits"),
    [
        (RELEASED, RELEASED, True),
        ("open_clip:ViT-SO400M-14-SigLIP2-378:webli=a.safetensors", RELEASED, True),
        ("transformers:folder", RELEASED, True),
        ("open_clip:ViT-B-16:openai", RELEASED, False),
        ("transformers:folder", "open_clip:ViT-B-16:openai", False),
        ("transformers:folder", "embedded:text", False),
        ("transformers:folder", "timm:vit_large_patch16_dinov3.lvd1689m", False),
    ],
)
def test_what_may_answer_for_a_teacher(text: str, teacher: str, fits: bool) -> None:
    assert is_text_side(text, teacher) == fits


def test_what_is_missing_is_one_line(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refused(name: str) -> str:
        with pytest.raises((WeightsError, ConfigError)) as error:
            load_text_encoder(f"transformers:{name}")
        assert "\n" not in str(error.value)
        return str(error.value)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "cannot load its text side" in refused("nobody/nothing")
    assert "expected transformers:FOLDER or transformers:OWNER/REPO[@REVISION]" in refused(str(tmp_path / "nowhere"))
    assert "expected transformers:FOLDER" in refused("nobody")

    lost = shutil.copytree(files[1], tmp_path / "lost")
    (lost / "tokenizer.json").unlink()
    (lost / "tokenizer_config.json").unlink()
    assert "tokenizer.json and tokenizer_config.json" in refused(str(lost))

    half = shutil.copytree(files[1], tmp_path / "half")
    state = load_file(half / "model.safetensors")
    save_file({k: v for k, v in state.items() if "text_model.head" not in k}, half / "model.safetensors")
    assert "its weights lack the text tower's" in refused(str(half))

    cut = shutil.copytree(files[1], tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((files[1] / "model.safetensors").read_bytes()[:5000])
    assert "cannot load its text side" in refused(str(cut))

    other = shutil.copytree(files[1], tmp_path / "other")
    (other / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert "is a model of type 'bert'" in refused(str(other))
    capfd.readouterr()

    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install transformers" in refused(str(files[1]))


def test_nothing_is_printed(files: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    load_text_encoder(f"transformers:{files[1]}")
    assert capfd.readouterr() == ("", "")


def test_the_released_text_side_is_read_from_the_hubs_cache(files: tuple[Path, Path], tmp_path: Path) -> None:
    """In a process of its own, offline: only transformers' copy of the weights is in the cache, so it answers."""
    repository = tmp_path / "models--google--siglip2-so400m-patch14-384"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("c0ffee")
    shutil.copytree(files[1], repository / "snapshots" / "c0ffee")
    np.save(tmp_path / "expected.npy", load_text_encoder(f"transformers:{files[1]}").encode(["a chair"]))
    program = (
        "import sys, numpy as np\n"
        "from chorus_common.text import load_text_encoder\n"
        f"encoder = load_text_encoder({RELEASED!r})\n"
        "assert encoder.spec == 'transformers:google/siglip2-so400m-patch14-384', encoder.spec\n"
        "np.testing.assert_array_equal(encoder.encode(['a chair']), np.load(sys.argv[1]))\n"
        "assert 'open_clip' not in sys.modules\n"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "expected.npy")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
