"""What the teachers `sam:` and `sam-masks:` ask of a network of the SAM family, whichever it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, device

from chorus_common.runtime.devices import Precision
from stage1_render_teachers.teachers.protocol import U8


class TokenModel(Protocol):
    """A network that sees a square of `side` pixels and gives `channels` for each of its tokens."""

    @property
    def weights(self) -> str: ...
    @property
    def precision(self) -> Precision: ...
    @property
    def side(self) -> int: ...
    @property
    def channels(self) -> int: ...

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of a picture inside the square; its upper left corner is the square's."""
        ...

    def tokens(self, images: U8) -> Tensor:
        """Tokens [B, C, t, t] f32 of pictures [B, H, W, 3] u8, on the model's device."""
        ...


class PromptableModel(TokenModel, Protocol):
    """One that also answers point prompts."""

    @property
    def device(self) -> device: ...

    def pictures(self, images: U8) -> Sequence[Any]:
        """What is computed once for each of the pictures [B, H, W, 3] u8, whatever is asked of it."""
        ...

    def share(self, picture: Any) -> Any:
        """What all prompts of one of `pictures` share."""
        ...

    def answer(self, shared: Any, coords: Tensor, inside: tuple[int, int], threshold: float) -> tuple[Tensor, Tensor]:
        """Answers to single foreground points [P, 2] (x, y in the square's pixels).

        Of the K prompts of which some mask is predicted to have an IoU above `threshold`: logits [K, 3, s, s] of the
        whole square, from the smallest part to the whole, and the predicted IoU [K, 3], both f32. `inside`: where the
        picture is; elsewhere logits mean nothing.
        """
        ...

    def scale_up(self, logits: Tensor, inside: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Masks [K, H, W] bool of a picture of `size` from logits [K, s, s]."""
        ...


def valid_region(inside: tuple[int, int], side: int, tokens: int) -> tuple[int, int]:
    """Rows and columns of low-resolution logits (`tokens` per side) that show the picture and not the padding."""
    rows, cols = (max(1, round(length * tokens / side)) for length in inside)
    return rows, cols
