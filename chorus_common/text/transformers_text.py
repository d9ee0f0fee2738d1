"""`transformers:MODEL`: the text side of SigLIP and SigLIP 2 through the package transformers (an optional extra).

MODEL is a repository of the hub (OWNER/REPO or OWNER/REPO@REVISION) or a folder with config.json, model.safetensors,
tokenizer.json and tokenizer_config.json. What a text becomes is what open_clip's side of the same weights makes of it
(`open_clip_text.py`): lower case without punctuation, as big_vision trained it; Gemma's pieces and one end mark, padded
on the right to the model's 64 tokens; attention over all of them, the padding too; the state at the last one, through
the head, scaled to length 1. transformers' own tokenizers also give an attention mask: with it the padding would not be
looked at, and every vector would be another one.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from chorus_common.runtime.devices import split_precision
from chorus_common.runtime.errors import ConfigError, WeightsError, one_line
from chorus_common.runtime.weight_files import quiet_downloads

FAMILY = "transformers:"
BATCH = 64

#: open_clip's specs whose weights the hub has in both layouts: (open_clip's repository, transformers').
SAME_WEIGHTS = {
    "open_clip:ViT-SO400M-14-SigLIP2-378:webli": (
        "timm/ViT-SO400M-14-SigLIP2-378", "google/siglip2-so400m-patch14-384",
    )
}  # fmt: skip
#: Model types of config.json -> class of the text tower.
_TOWERS = {"siglip": "SiglipTextModel", "siglip2": "Siglip2TextModel"}
_MISSING = "its text side needs the package transformers: pip install transformers"


class TransformersTextEncoder:
    """Texts through SigLIP's text tower (the picture tower is not loaded), on the CPU in fp32. See `TextEncoder`.

    Raises WeightsError, one line, where the package, the weights or the tokenizer are missing or do not fit.
    """

    #: Nothing in these files tells which picture tower they belong to.
    pair = ""

    def __init__(self, spec: str) -> None:
        self.spec = spec
        source, revision = _parse(spec)
        try:
            with quiet_downloads(), quiet_transformers():
                self._network, self._tokenizer = _load(spec, source, revision)
        except ImportError:
            raise WeightsError(f"{spec}: {_MISSING}") from None
        config = self._network.config
        self.channels = int(config.projection_size)
        self._tokens = int(config.max_position_embeddings)
        self._vocabulary = int(config.vocab_size)
        self._tokenize(["a"])

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """See `chorus_common.text.TextEncoder.encode`."""
        parts = [self._encode(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)]
        return np.concatenate([np.zeros((0, self.channels), dtype=np.float32), *parts])

    @torch.inference_mode()
    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        pooled = self._network(input_ids=self._tokenize(texts)).pooler_output
        return F.normalize(pooled.float(), dim=-1).numpy()

    def _tokenize(self, texts: list[str]) -> torch.Tensor:
        """Ids [K, tokens] i64."""
        ids = self._tokenizer(
            [canonical(text) for text in texts],
            padding="max_length", max_length=self._tokens, truncation=True, padding_side="right", return_tensors="pt",
        ).input_ids  # fmt: skip
        if ids.shape[1] != self._tokens or int(ids.max()) >= self._vocabulary:
            raise WeightsError(
                f"{self.spec}: its tokenizer belongs to another model; fetch all files of one repository"
            )
        out: torch.Tensor = ids
        return out


def canonical(text: str) -> str:
    """A text as SigLIP's training saw it (big_vision, evaluators/proj/image_text/prompt_engineering.py,
    `canonicalize_text`): lower case, "_" as a blank, no other ASCII punctuation, single blanks.

    >>> canonical("A photo of a Shower-Curtain,  new_one!")
    'a photo of a showercurtain new one'
    """
    plain = text.replace("_", " ").translate(str.maketrans("", "", string.punctuation))
    return " ".join(plain.lower().split())


def here_instead(spec: str) -> str | None:
    """The spec of transformers' side of `open_clip:MODEL:TAG` where the hub's cache on this machine holds its weights
    and not open_clip's; else None. The network is not asked.
    """
    from huggingface_hub import try_to_load_from_cache

    repositories = SAME_WEIGHTS.get(split_precision(spec)[0])
    if repositories is None:
        return None
    files = ("open_clip_model.safetensors", "model.safetensors")
    own, other = (isinstance(try_to_load_from_cache(r, f), str) for r, f in zip(repositories, files))
    return FAMILY + repositories[1] if other and not own else None


def _parse(spec: str) -> tuple[str, str | None]:
    """(folder or repository, revision)."""
    text = spec.removeprefix(FAMILY)
    folder = Path(text).expanduser()
    if folder.is_dir():
        return str(folder), None
    source, at, revision = text.partition("@")
    if source.count("/") != 1 or not all(source.split("/")) or (at and not revision):
        raise ConfigError(f"{spec}: no such folder; expected {FAMILY}FOLDER or {FAMILY}OWNER/REPO[@REVISION]")
    return source, revision or None


def _load(spec: str, source: str, revision: str | None) -> tuple[Any, Any]:
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(source, revision=revision)
        if config.model_type not in _TOWERS:
            known = ", ".join(_TOWERS)
            raise WeightsError(f"{spec}: is a model of type '{config.model_type}'; expected one of {known}")
        network, report = getattr(transformers, _TOWERS[config.model_type]).from_pretrained(
            source, revision=revision, config=config.text_config, use_safetensors=True, output_loading_info=True
        )
        wrong = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        if wrong:
            raise WeightsError(f"{spec}: its weights lack the text tower's {wrong[0]} ({len(wrong)} such)")
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, revision=revision)
    except (ImportError, WeightsError):
        raise
    except Exception as error:  # hub, proxy, disk, format: many kinds of error, one remedy
        raise WeightsError(
            f"{spec}: cannot load its text side ({one_line(error)[:120]}); it needs config.json, model.safetensors, "
            f"tokenizer.json and tokenizer_config.json: download them and write {FAMILY}FOLDER"
        ) from None
    return network.float().eval().requires_grad_(False), tokenizer


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from printing tables of tensors that are not loaded, and a bar per file."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
