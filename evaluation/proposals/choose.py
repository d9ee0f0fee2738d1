"""From the words of a command line to proposal sources."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chorus_common.runtime.errors import ConfigError
from evaluation.proposals.files import ProposalFiles
from evaluation.proposals.ground_truth import GroundTruthProposals
from evaluation.proposals.merged_masks import MergeConfig, MergedMasks
from evaluation.proposals.proposals import ProposalSource


def proposal_sources(words: Sequence[str], merge: MergeConfig) -> tuple[ProposalSource, ...]:
    """`masks`, `truth` or a folder each. Raises ConfigError for a word that is none of them."""
    found: list[ProposalSource] = []
    for word in dict.fromkeys(words):
        if word == "masks":
            found.append(MergedMasks(merge))
        elif word == "truth":
            found.append(GroundTruthProposals())
        elif Path(word).is_dir():
            found.append(ProposalFiles(Path(word), origin=Path(word).name))
        else:
            raise ConfigError(f"--proposals {word}: expected masks, truth or an existing folder")
    if len({source.origin for source in found}) < len(found):
        raise ConfigError("--proposals: two folders have the same name; rename one, their rows would be one")
    return tuple(found)
