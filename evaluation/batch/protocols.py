"""Published protocols of zero-shot segmentation by name: how they ask and vote, and which definition of the means they
print. One feature file scored under several of them gives one line each.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """How a publication scores.

    Attributes:
        options: of chorus-eval zero-shot.
        definition: the definition of metrics (`evaluation.metrics.semantic.DEFINITIONS`) that its numbers have.
        oracle: whether its rows are those in which ground-truth instances vote.
        source: where the protocol was read.
    """

    options: dict[str, bool | str]
    definition: str
    oracle: bool
    source: str


#: 25 Gaussians vote for a point; a class is asked as "this is a <name>".
_POINTS: dict[str, bool | str] = {"on": "points", "k": "25", "prompts": "scenesplat"}

PROTOCOLS: dict[str, Protocol] = {
    "chorus-release": Protocol(_POINTS, "chorus_release", False, "GaussianWorld/Chorus, its zero-shot evaluation"),
    "chorus-release-oracle": Protocol(
        _POINTS | {"oracle-instances": True}, "chorus_release", True,
        "GaussianWorld/Chorus, with the instance files that lie beside ScanNet's points",
    ),
    "scenesplat-hook": Protocol(_POINTS, "scenesplat_hook", False, "SceneSplat engines/hooks/evaluator.py"),
    "scenesplat-tester": Protocol(_POINTS, "scenesplat_tester", False, "SceneSplat engines/test.py"),
    "scenesplat-tester-oracle": Protocol(
        _POINTS | {"oracle-instances": True}, "scenesplat_tester", True,
        "SceneSplat engines/test.py, with the instance files that lie beside ScanNet's points",
    ),
    "scenesplat-bench": Protocol(_POINTS, "chorus", False, "SceneSplat-Bench, open_vocab_seg_*.py"),
}  # fmt: skip
