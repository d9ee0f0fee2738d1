"""How a student's predictions get from a projector's output to the teacher's own space, as modules."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from chorus_common.features.standardise import PhiSStandardiser


class StandardiserModule(nn.Module):
    """A teacher's PHI-S standardiser as buffers: y' = R (y - mean) / phi, and back
    (chorus_common.features.standardise)."""

    mean: Tensor
    rotation: Tensor
    phi: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("rotation", torch.eye(channels))
        self.register_buffer("phi", torch.ones(()))

    @staticmethod
    def of(standardiser: PhiSStandardiser) -> StandardiserModule:
        """The same numbers in float32."""
        module = StandardiserModule(len(standardiser.mean))
        module.mean.copy_(torch.from_numpy(np.asarray(standardiser.mean, dtype=np.float32)))
        module.rotation.copy_(torch.from_numpy(np.asarray(standardiser.rotation, dtype=np.float32)))
        module.phi.fill_(float(standardiser.phi))
        return module

    def inverse(self, standardised: Tensor) -> Tensor:
        """[..., C] from the standardised space to the teacher's own: phi R^T y' + mean."""
        return standardised @ self.linear() + self.mean

    def linear(self) -> Tensor:
        """The map's linear part [C, C]."""
        return self.rotation * self.phi

    def offset(self) -> Tensor:
        """The teacher's mean in the standardised frame, R mean / phi [C]; see
        `losses.distillation.distillation_loss`."""
        return self.rotation @ self.mean / self.phi


class IdentityStandardiser(nn.Module):
    """In place of a standardiser where predictions are in the teacher's own space already: nothing is stored."""

    mean: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels), persistent=False)

    @property
    def rotation(self) -> Tensor:
        """[C, C]"""
        return torch.eye(len(self.mean), device=self.mean.device)

    @property
    def phi(self) -> Tensor:
        """[]"""
        return torch.ones((), device=self.mean.device)

    def inverse(self, standardised: Tensor) -> Tensor:
        """As it is."""
        return standardised

    def linear(self) -> Tensor:
        """The map's linear part [C, C]."""
        return self.rotation

    def offset(self) -> Tensor:
        """The teacher's mean [C]: none."""
        return self.mean
