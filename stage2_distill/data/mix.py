"""Two scenes as one sample (Mix3D, Nekrasov et al. 2021): attention has to tell apart what merely lies near.

Scenes are joined before voxels are made, so that a voxel stays one row; upstream joins clouds of voxels and gets two
rows for one place (SceneSplat datasets/utils.py:37-48). Where both scenes share a voxel, its target is the
visibility-weighted mean of both, as of any Gaussians in one voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch

from chorus_common.scene import GaussianScene
from stage2_distill.data.batch import MaskGroups, TeacherTarget
from stage2_distill.encoder.inputs import centred
from stage2_distill.sparse_rows import SparseRows


def joint_scene(scenes: Sequence[GaussianScene]) -> GaussianScene:
    """All Gaussians of `scenes`, each scene centred as the encoder's input centres it, in order.

    A column that a scene lacks is -1 (labels, instances, parts) where another has it; normals are kept if all have
    them. Labels of another space than the first scene's are unknown; instances of different scenes stay different.
    """
    first = scenes[0]
    columns = {k: [getattr(s, k) for s in scenes] for k in ("quats", "scales", "opacities", "colors", "source_ids")}
    joined: dict[str, Any] = {k: np.concatenate(v) for k, v in columns.items()}
    joined["means"] = np.concatenate([centred(s.means) for s in scenes]).astype(np.float32)
    if all(s.normals is not None for s in scenes):
        joined["normals"] = np.concatenate([s.normals for s in scenes if s.normals is not None])
    for key in ("labels", "instances", "parts"):
        values, largest = [], -1
        for scene in scenes:
            own = getattr(scene, key)
            if own is None or (key == "labels" and scene.label_space != first.label_space):
                own = np.full(len(scene), -1, np.int32)
            elif key != "labels":
                own = np.where(own >= 0, own + largest + 1, -1).astype(np.int32)
                largest = max(largest, int(own.max(initial=-1)))
            values.append(own)
        if any(getattr(s, key) is not None for s in scenes):
            joined[key] = np.concatenate(values)
    assert set(joined) <= {f.name for f in fields(GaussianScene)}
    return GaussianScene(**joined, name=first.name, label_space=first.label_space)


def summed_targets(parts: Sequence[dict[str, TeacherTarget]], pixels: Sequence[int]) -> dict[str, TeacherTarget]:
    """Targets of several parts over the same rows, means of equal rows weighted by visibility.

    Args:
        pixels: pixels of each part where targets are about pixels, which every part has for itself; else empty.
    """
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *pixels])[:-1].tolist() if pixels else [0] * len(parts)
    out = {}
    for name in dict.fromkeys(n for p in parts for n in p):
        having = [(p[name], start) for p, start in zip(parts, starts) if name in p]
        rows, place = torch.unique(torch.cat([t.rows + start for t, start in having]), return_inverse=True)
        values, weight = (torch.cat([getattr(t, k) for t, _ in having]) for k in ("values", "weight"))
        total = weight.new_zeros(len(rows)).index_add_(0, place, weight)
        sums = values.new_zeros(len(rows), values.shape[1]).index_add_(0, place, values * weight[:, None])
        out[name] = TeacherTarget(rows, sums / total[:, None], total, torch.zeros_like(rows))
    return out


def stacked_masks(parts: Sequence[MaskGroups]) -> MaskGroups:
    """Groups of several parts of one cloud."""
    group, context, groups, contexts = [], [], 0, 0
    for part in parts:
        group.append(part.group + groups)
        context.append(part.context + contexts)
        groups, contexts = groups + int(part.group.max()) + 1, contexts + len(part.cloud)
    cloud = torch.cat([p.cloud for p in parts])
    return MaskGroups(SparseRows.stack([p.pixels for p in parts]), torch.cat(group), torch.cat(context), cloud)
