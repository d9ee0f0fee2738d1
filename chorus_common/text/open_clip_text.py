"""The text side of `open_clip:MODEL:WEIGHTS`: class names -> unit vectors in the space of its picture tokens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chorus_common.runtime.errors import WeightsError, one_line
from chorus_common.runtime.weight_files import quiet_downloads, weights_fingerprint
from chorus_common.text.open_clip_model import FAMILY, OpenClipModel, load_open_clip

BATCH = 64
NO_TOKENIZER = "its text side needs the tokenizer of the package transformers: pip install transformers"


class OpenClipTextEncoder:
    """Texts through open_clip's own tokenizer and tower, on the CPU in fp32.

    CLIP: byte pairs, 77 tokens, lower case. SigLIP 2: Gemma's pieces, 64 tokens, canonicalised (lower case, no
    punctuation), as big_vision trained it; its tokenizer needs the package transformers. `pair` is the fingerprint of
    the picture tower that came with this text tower.
    """

    def __init__(self, model: OpenClipModel) -> None:
        self.spec = model.spec
        self.pair = weights_fingerprint(model.network.visual)  # type: ignore[arg-type]
        self._network = model.network
        self._tokenize = load_tokenizer(model)
        del self._network.visual  # half of the memory, and of no use to texts
        self.channels = self._encode(["a"]).shape[1]

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """See `chorus_common.text.TextEncoder.encode`."""
        if not texts:
            return np.zeros((0, self.channels), dtype=np.float32)
        return np.concatenate([self._encode(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)])

    @torch.inference_mode()
    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        return self._network.encode_text(self._tokenize(texts), normalize=True).float().numpy()  # type: ignore[operator]


def load_tokenizer(model: OpenClipModel) -> Callable[[list[str]], Tensor]:
    """open_clip's tokenizer of `model`: texts -> ids [K, context length] i64.

    A tokenizer of the Hugging Face hub is read from the folder of the weights file where that holds a tokenizer.json.
    It needs the package transformers. Raises WeightsError where it cannot be had.
    """
    import open_clip

    config = open_clip.get_model_config(model.name)["text_cfg"]
    hub_name = config.get("hf_tokenizer_name")
    if not hub_name:
        return open_clip.get_tokenizer(model.name)
    local = model.weights is not None and (model.weights.parent / "tokenizer.json").is_file()
    try:
        with quiet_downloads():
            return open_clip.tokenizer.HFTokenizer(
                str(model.weights.parent) if local and model.weights else hub_name,
                context_length=config.get("context_length", 77),
                **config.get("tokenizer_kwargs", {}),
            )
    except Exception as error:  # hub, proxy, disk, format: many kinds of error, one remedy
        raise WeightsError(
            f"{model.spec}: cannot get its tokenizer ({one_line(error)[:120]}); download tokenizer.json and "
            f"tokenizer_config.json from https://huggingface.co/{hub_name} into the folder of the weights file"
        ) from None


def load_open_clip_text(spec: str) -> OpenClipTextEncoder:
    """The text encoder of "open_clip:MODEL:WEIGHTS[@PRECISION]"; the precision of the picture side is ignored."""
    import open_clip

    config = open_clip.get_model_config(spec.removeprefix(FAMILY).partition(":")[0])
    if config is not None and config["text_cfg"].get("hf_tokenizer_name"):
        try:  # before gigabytes of weights are fetched
            import transformers  # noqa: F401
        except ImportError:
            raise WeightsError(f"{spec}: {NO_TOKENIZER}") from None
    return OpenClipTextEncoder(load_open_clip(spec.removeprefix(FAMILY)))
