from __future__ import annotations

import pytest

from tests.evaluation.rooms import Rooms, WordVectors, make_rooms


@pytest.fixture(autouse=True)
def word_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own text encoder: they do not depend on trained weights."""
    for module in ("evaluation.features", "evaluation.report.build"):
        monkeypatch.setattr(f"{module}.load_text_encoder", lambda spec: WordVectors())


@pytest.fixture(scope="session")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Rooms:
    """Two training and two validation rooms, one room without labels, and one that the manifest names in vain."""
    return make_rooms(tmp_path_factory.mktemp("rooms"), unlabelled=1, missing=1)
