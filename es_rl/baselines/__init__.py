"""Gradient estimators by automatic differentiation, to compare evolution strategies with."""

from __future__ import annotations

from collections.abc import Mapping

from es_rl.baselines.backward import BPTT, TBPTT
from es_rl.baselines.forward import DODGE, RTRL, UORO
from es_rl.baselines.protocol import DifferentiableTask, JacobianStep, LinearizedStep
from es_rl.baselines.workers import Baseline

__all__ = [
    "BASELINES",
    "BPTT",
    "DODGE",
    "RTRL",
    "TBPTT",
    "UORO",
    "Baseline",
    "DifferentiableTask",
    "JacobianStep",
    "LinearizedStep",
]

BASELINES: Mapping[str, type[Baseline]] = {
    "bptt": BPTT,
    "tbptt": TBPTT,
    "rtrl": RTRL,
    "uoro": UORO,
    "dodge": DODGE,
}
"""Baselines by name, as `es_rl.estimators.ESTIMATORS` has the others."""
