"""Evolution-strategies agents with Stable-Baselines3's interface."""

from __future__ import annotations

if __name__ != "es_rl.agents":
    raise ImportError(
        "this folder is the package 'es_rl.agents': install the project and import it by that name"
    )

import importlib
from typing import TYPE_CHECKING, Any

from es_rl.agents.algorithms import AGENTS, ARS, GPES, NRES, PES, TES, FullES
from es_rl.agents.learning import ESAgent
from es_rl.agents.loggers import resume_logger
from es_rl.agents.policies import ESPolicy, LinearPolicy, MlpPolicy

if TYPE_CHECKING:
    from es_rl.agents.vec_env import NativeVecEnv
    from es_rl.agents.zoo import register_rl_zoo3

_HOMES = {"NativeVecEnv": "es_rl.agents.vec_env", "register_rl_zoo3": "es_rl.agents.zoo"}

__all__ = [
    "AGENTS",
    "ARS",
    "GPES",
    "NRES",
    "PES",
    "TES",
    "ESAgent",
    "ESPolicy",
    "FullES",
    "LinearPolicy",
    "MlpPolicy",
    "NativeVecEnv",
    "register_rl_zoo3",
    "resume_logger",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'es_rl.agents' has no attribute {name!r}")
