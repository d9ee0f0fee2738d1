"""A tiny SigLIP 2 with random weights in open_clip's layout and in transformers', each as its library saves it."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

NAME = "siglip-two-layouts"
WIDTH, HEADS, LAYERS, TOKENS, VOCABULARY, OUT = 64, 2, 2, 64, 512, 48
#: Hidden width of the MLP: no whole multiple of the width, as in so400m.
HIDDEN = 239
TEXTS = ["a chair", "Shower Curtain", "this is a SOFA!", "kitchen_counter", "täble", "", "a photo of a wall " * 20]


def write_open_clip(folder: Path, hub_name: str = "nobody/no-tokenizer") -> Path:
    """model.safetensors of open_clip's architecture `NAME`, which is registered with open_clip, and its tokenizer."""
    folder.mkdir(parents=True)
    config = {
        "embed_dim": OUT,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 160, "timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            "context_length": TOKENS, "vocab_size": VOCABULARY, "hf_tokenizer_name": hub_name,
            "tokenizer_kwargs": {"clean": "canonicalize"}, "width": WIDTH, "heads": HEADS, "layers": LAYERS,
            "mlp_ratio": HIDDEN / WIDTH, "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"},
        },
    }  # fmt: skip
    (folder / f"{NAME}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{NAME}.json")
    torch.manual_seed(0)
    state = open_clip.create_model(NAME).state_dict()
    state = {k: v + 0.1 * torch.randn_like(v) if v.is_floating_point() else v for k, v in state.items()}
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "model.safetensors")
    write_tokenizer(folder)
    return folder / "model.safetensors"


def write_transformers(folder: Path, state: dict[str, Tensor]) -> Path:
    """The folder of transformers' layout of an open_clip `state`: whole model (random picture tower) and tokenizer."""
    config = transformers.SiglipConfig(
        text_config={
            "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": HIDDEN, "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS, "max_position_embeddings": TOKENS, "projection_size": OUT,
        },
        vision_config={
            "hidden_size": OUT, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 32, "patch_size": 16,
        },
    )  # fmt: skip
    model = transformers.SiglipModel(config)
    tower = {k.removeprefix("text_model."): v for k, v in converted(state).items()}
    prefix = "text_model." if any(k.startswith("text_model.") for k in model.text_model.state_dict()) else ""
    model.text_model.load_state_dict({prefix + k: v for k, v in tower.items()}, strict=True)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def converted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Text tower of open_clip's state under transformers' names."""
    names = {
        "token_embedding.weight": "embeddings.token_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
        "ln_final": "final_layer_norm",
        "text_projection": "head",
        "transformer.resblocks": "encoder.layers",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "attn.out_proj": "self_attn.out_proj",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if not key.startswith("text."):
            continue
        name = key.removeprefix("text.")
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        if "attn.in_proj_" in name:
            for part, rows in zip("qkv", value.chunk(3)):
                out["text_model." + name.replace("attn.in_proj_", f"self_attn.{part}_proj.")] = rows
        else:
            out["text_model." + name] = value
    return out


def write_tokenizer(folder: Path) -> None:
    """Gemma's kind of tokenizer (pieces with "▁" for blanks, bytes for the unknown, an end mark), trained on a few
    words.
    """
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{i:02X}>" for i in range(256))]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    words = ["a photo of a chair", "there is a shower curtain in the scene", "sofa table desk wall kitchen counter"]
    tokenizer.train_from_iterator(words * 5, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>",
        padding_side="right",
    ).save_pretrained(folder)  # fmt: skip
