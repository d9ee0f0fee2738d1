"""What a query asks: words, a place of the scene, or a picture; whose features answer, compared with what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus_common.runtime.errors import ConfigError
from chorus_common.text.embedding_file import EmbeddingFile
from chorus_common.text.relevancy import CANONICAL_PHRASES
from evaluation.features import FeatureSource, SceneFeatures
from evaluation.like_sources import one_head, picture_vector
from evaluation.likeness import expanded, feature_at, typical_features
from evaluation.prompts import prompts_for
from evaluation.relevancy import query_embeddings
from evaluation.scenes import LoadedScene, Selection
from evaluation.sources import SourceOptions, one_source

F32 = NDArray[np.float32]
#: What queries are compared with: LERF's phrases, or the scene itself.
CANONICAL, TYPICAL = "canonical phrases", "scene's other typical features"
#: (scene, its features) -> (query [1, C], what it is compared with [M, C]), unit rows.
Vectors = Callable[[LoadedScene, SceneFeatures], tuple[F32, F32]]


@dataclass(frozen=True)
class Words:
    """A text, asked through the prompt templates of that name."""

    text: str
    prompts: str

    @property
    def title(self) -> str:
        return f'"{self.text}"'

    def inputs(self) -> dict[str, Any]:
        """For a result file."""
        return {"query": self.text}


@dataclass(frozen=True)
class Likeness:
    """A place of the file, or a picture."""

    point: Sequence[float] | None
    picture: Path | None

    @property
    def title(self) -> str:
        if self.point is not None:
            return "like " + ",".join(f"{value:g}" for value in self.point)
        assert self.picture is not None, "one of the two"
        return f"like {self.picture.name}"

    def inputs(self) -> dict[str, Any]:
        """For a result file."""
        return {
            "like_point": None if self.point is None else list(self.point),
            "like_image": None if self.picture is None else str(self.picture),
        }


@dataclass(frozen=True)
class Asked:
    """row: what the features are called. source: theirs. vectors: see `Vectors`. inputs: for a result file, the spec of
    the text side, or of the head's teacher. half: what a relevancy of one half means: as near to the query as to these.
    """

    row: str
    source: FeatureSource
    vectors: Vectors
    inputs: dict[str, str]
    half: str = TYPICAL


def ask(question: Words | Likeness, options: SourceOptions, selection: Selection) -> Asked:
    """Whose features answer `question`, and the vectors to compare them with: LERF's canonical phrases for words, what
    else is typical of the scene for a place or a picture, and for words out of a file that holds no canonical phrase.

    Raises ConfigError, one line, for a query that the asked side knows nothing of.
    """
    if isinstance(question, Words):
        row, source, text_encoder = one_source(options, selection)
        prompts = prompts_for(text_encoder, question.prompts)
        spoken = {"prompts": prompts, "text_encoder": text_encoder.spec}
        if isinstance(text_encoder, EmbeddingFile) and not text_encoder.holds_any(CANONICAL_PHRASES):
            words = text_encoder.encode([question.text])
            return Asked(row, source, lambda s, f: _compared(s, f, _in_scene(s, f, words)), spoken)
        texts = query_embeddings(text_encoder, [question.text], prompts)
        return Asked(row, source, lambda scene, features: texts, spoken, CANONICAL)
    head = one_head(options, selection, picture=question.picture is not None)
    spoken = {"teacher": head.teacher, "teacher_spec": head.spec}
    if question.picture is None:
        assert question.point is not None, "one of the two"
        place = np.array(question.point)
        return Asked(head.row, head.source, lambda s, f: _compared(s, f, feature_at(s, f, place)), spoken)
    vector = picture_vector(question.picture, head, options.device).vector[None]
    return Asked(head.row, head.source, lambda s, f: _compared(s, f, _in_scene(s, f, vector)), spoken)


def _in_scene(scene: LoadedScene, features: SceneFeatures, vector: F32) -> F32:
    """The vector [1, C] of a picture or of words as the scene's features say it."""
    width = features.rows(0, 1).shape[1]
    if vector.shape[1] != width:
        raise ConfigError(f"{scene.name}: its features have {width} channels, the picture's vector {vector.shape[1]}")
    return expanded(features, len(scene.gaussians), vector)


def _compared(scene: LoadedScene, features: SceneFeatures, query: F32) -> tuple[F32, F32]:
    """The query and the scene's other typical features."""
    return query, typical_features(features, len(scene.gaussians), query)
