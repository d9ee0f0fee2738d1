"""Evaluation: tasks, metrics and the comparison of results."""

from typing import TYPE_CHECKING

from chorus_common.runtime.lazy import lazy_exports

if TYPE_CHECKING:
    from chorus_common.runtime.version import __version__
    from evaluation.comparison import compare
    from evaluation.features import FeatureSource
    from evaluation.metrics.instance import InstanceEvaluator
    from evaluation.metrics.semantic import ConfusionMatrix
    from evaluation.scenes import select_scenes
    from evaluation.tasks.finetune import finetune
    from evaluation.tasks.instances import InstancesConfig, instances
    from evaluation.tasks.probe import ProbeConfig, probe
    from evaluation.tasks.retrieval import RetrievalConfig, retrieval
    from evaluation.tasks.zero_shot import ZeroShotConfig, zero_shot

__all__ = [
    "ConfusionMatrix",
    "FeatureSource",
    "InstanceEvaluator",
    "InstancesConfig",
    "ProbeConfig",
    "RetrievalConfig",
    "ZeroShotConfig",
    "__version__",
    "compare",
    "finetune",
    "instances",
    "probe",
    "retrieval",
    "select_scenes",
    "zero_shot",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "chorus_common.runtime.version": ("__version__",),
        "evaluation.comparison": ("compare",),
        "evaluation.features": ("FeatureSource",),
        "evaluation.metrics.instance": ("InstanceEvaluator",),
        "evaluation.metrics.semantic": ("ConfusionMatrix",),
        "evaluation.scenes": ("select_scenes",),
        "evaluation.tasks.finetune": ("finetune",),
        "evaluation.tasks.instances": ("InstancesConfig", "instances"),
        "evaluation.tasks.probe": ("ProbeConfig", "probe"),
        "evaluation.tasks.retrieval": ("RetrievalConfig", "retrieval"),
        "evaluation.tasks.zero_shot": ("ZeroShotConfig", "zero_shot"),
    },
)
