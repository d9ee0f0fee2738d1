"""The weights of SAM's prompt encoder and mask decoder out of their ONNX export, into the stock modules.

Most tensors keep their names. The exporter renames three kinds, which are found by where they are used: matrices of
linear layers by the bias that is added to their product, the two parts of the 2D layer norms and the joined output
tokens by their shapes, which nothing else in the graph has.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chorus_common.runtime.errors import ConfigError, WeightsError, one_line

#: Heads of SAM's decoder, of every size that was published.
HEADS = 8


def decoder_of_graph(path: Path, image_side: int) -> tuple[nn.Module, nn.Module]:
    """Prompt encoder and mask decoder, stock modules with the weights of the ONNX file `path`.

    image_side: pixels per side of the encoder's square. Raises WeightsError for a graph that is no export of SAM's
    decoder.
    """
    from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

    tensors = named_tensors(path)
    try:
        channels = tensors["prompt_encoder.not_a_point_embed.weight"].shape[1]
        depth = 1 + max(int(m[1]) for m in map(re.compile(r".*transformer\.layers\.(\d+)\.").match, tensors) if m)
        mlp = tensors["mask_decoder.transformer.layers.0.mlp.lin1.bias"].shape[0]
        quality = [name for name in tensors if re.fullmatch(r"mask_decoder\.iou_prediction_head.*\.bias", name)]
        hidden = tensors["mask_decoder.iou_prediction_head.layers.0.bias"].shape[0]
        side = int(tensors["image_embeddings"][2])
        prompts = PromptEncoder(channels, (side, side), (image_side, image_side), mask_in_chans=16)
        decoder = MaskDecoder(
            transformer_dim=channels,
            transformer=TwoWayTransformer(depth=depth, embedding_dim=channels, num_heads=HEADS, mlp_dim=mlp),
            iou_head_depth=len(quality),
            iou_head_hidden_dim=hidden,
        )
        _fill(prompts, "prompt_encoder.", tensors, skip="mask_downscaling")
        _fill(decoder, "mask_decoder.", tensors)
    except (KeyError, ValueError, AssertionError) as error:
        raise WeightsError(f"{path}: no usual export of SAM's decoder: lacks or misshapes {one_line(error)}") from None
    return prompts.eval(), decoder.eval()


def _fill(module: nn.Module, prefix: str, tensors: dict[str, Tensor], skip: str = "nothing") -> None:
    """Load the tensors under `prefix`; those with `skip` in their name are never used with points alone."""
    state = module.state_dict()
    for name, own in state.items():
        if skip not in name:
            found = tensors[prefix + name]
            if found.numel() != own.numel():
                raise ValueError(f"{prefix + name} {tuple(found.shape)}, not {tuple(own.shape)}")
            state[name] = found.reshape(own.shape)
    module.load_state_dict(state)


def named_tensors(path: Path) -> dict[str, Tensor]:
    """SAM's names -> tensors of an exported decoder, and "image_embeddings" -> that input's shape."""
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise ConfigError(
            "sam-onnx needs onnxruntime and onnx: pip install 'chorus3d[onnx]', or make real-teachers"
        ) from None
    try:
        graph = onnx.load(str(path)).graph
    except Exception as error:  # protobuf's kinds
        raise WeightsError(f"{path}: no ONNX file ({one_line(error)[:120]})") from None
    arrays: dict[str, NDArray[Any]] = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            arrays.setdefault(node.output[0], numpy_helper.to_array(node.attribute[0].t))
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in arrays:  # equal tensors are stored once
            arrays[node.output[0]] = arrays[node.input[0]]
    plain = {re.sub(r"^(model\.)+", "", name): value for name, value in arrays.items()}
    plain |= _matrices(graph, arrays)
    _by_shape(graph, plain)
    tensors = {name: torch.from_numpy(np.array(value, dtype=np.float32)) for name, value in plain.items()}
    for entry in graph.input:
        if entry.name == "image_embeddings":
            tensors[entry.name] = torch.tensor([d.dim_value for d in entry.type.tensor_type.shape.dim])
    return tensors


def _matrices(graph: Any, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Weights of linear layers: of "x MatMul W", "Add bias" -> the bias's name with "weight" in place of "bias"."""
    products = {n.output[0]: n.input[1] for n in graph.node if n.op_type == "MatMul" and n.input[1] in arrays}
    found = {}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        for bias, product in (node.input, reversed(node.input)):
            if product in products and bias.endswith(".bias"):
                name = re.sub(r"^(model\.)+", "", bias).removesuffix("bias") + "weight"
                found[name] = arrays[products[product]].T
    return found


def _by_shape(graph: Any, plain: dict[str, NDArray[Any]]) -> None:
    """Name the tensors that only their shapes and uses tell, in place."""
    if "prompt_encoder.not_a_point_embed.weight" not in plain:
        return
    channels = plain["prompt_encoder.not_a_point_embed.weight"].shape[1]
    users = {name: node.op_type for node in graph.node for name in node.input}
    for name, value in [item for item in plain.items() if "." not in item[0]]:
        if value.shape == (1, channels, 1, 1):
            plain.setdefault("prompt_encoder.no_mask_embed.weight", value)
        elif value.ndim == 3 and value.shape[0] == 1 and value.shape[2] == channels:
            plain.setdefault("mask_decoder.iou_token.weight", value[0, :1])
            plain.setdefault("mask_decoder.mask_tokens.weight", value[0, 1:])
        elif value.shape == (channels // 4, 1, 1):
            part = "weight" if users.get(name) == "Mul" else "bias"
            plain.setdefault(f"mask_decoder.output_upscaling.1.{part}", value)
