"""Train control policies with online evolution strategies.

Attributes are imported on first use, so that `import es_rl` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from es_rl.estimators import ARS, GPES, NRES, PES, TES, FullES
    from es_rl.evaluation import evaluate
    from es_rl.optimizers import SGD, Adam, ClipUp, Momentum
    from es_rl.policies import LinearPolicy, MlpPolicy, load_policy
    from es_rl.trainer import Trainer

__version__ = "0.1.0"

_EXPORTS = {
    "es_rl.estimators": ("ARS", "GPES", "NRES", "PES", "TES", "FullES"),
    "es_rl.evaluation": ("evaluate",),
    "es_rl.optimizers": ("SGD", "Adam", "ClipUp", "Momentum"),
    "es_rl.policies": ("LinearPolicy", "MlpPolicy", "load_policy"),
    "es_rl.trainer": ("Trainer",),
}
_HOMES = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = [
    "ARS",
    "GPES",
    "NRES",
    "PES",
    "SGD",
    "TES",
    "Adam",
    "ClipUp",
    "FullES",
    "LinearPolicy",
    "MlpPolicy",
    "Momentum",
    "Trainer",
    "__version__",
    "evaluate",
    "load_policy",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'es_rl' has no attribute {name!r}")
