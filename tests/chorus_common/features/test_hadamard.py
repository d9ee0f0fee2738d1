"""Hadamard rotations: orthogonal, equal magnitudes wherever a construction is known, reproducible."""

from __future__ import annotations

import numpy as np
import pytest

from chorus_common.features.hadamard import hadamard

KNOWN = (64, 128, 256, 384, 512, 768, 1024, 1152, 1280, 1408, 1536, 1664, 1792, 2048)


@pytest.mark.parametrize("n", [1, 2, 4, 12, 20, 28, 36, *KNOWN])
def test_entries_have_equal_magnitude_and_rows_are_orthonormal(n: int) -> None:
    rotation = hadamard(n)
    assert rotation.exact
    np.testing.assert_allclose(np.abs(rotation.matrix), 1 / np.sqrt(n), rtol=1e-12)
    np.testing.assert_allclose(rotation.matrix @ rotation.matrix.T, np.eye(n), atol=1e-12)
    assert (np.diag(rotation.matrix) > 0).all()


@pytest.mark.parametrize("n", [3, 6, 10, 92, 100, 116, 172])
def test_fallback_is_orthogonal_flagged_and_seeded(n: int) -> None:
    rotation = hadamard(n, seed=1)
    assert not rotation.exact
    assert "seed 1" in rotation.construction
    np.testing.assert_allclose(rotation.matrix @ rotation.matrix.T, np.eye(n), atol=1e-12)
    assert (np.diag(rotation.matrix) >= 0).all()
    np.testing.assert_array_equal(rotation.matrix, hadamard(n, seed=1).matrix)
    assert not np.array_equal(rotation.matrix, hadamard(n, seed=2).matrix)


@pytest.mark.parametrize(
    ("n", "name"),
    [(64, "Sylvester(64)"), (20, "Paley I(20)"), (36, "Paley II(36)"), (40, "Sylvester(2) x Paley I(20)")],
)
def test_constructions(n: int, name: str) -> None:
    assert hadamard(n).construction == name


def test_sylvester_by_hand() -> None:
    np.testing.assert_allclose(hadamard(4).matrix * 2, [[1, 1, 1, 1], [-1, 1, -1, 1], [-1, -1, 1, 1], [1, -1, -1, 1]])


def test_no_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one channel"):
        hadamard(0)
