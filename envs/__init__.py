"""What can be unrolled: native MuJoCo, any Gymnasium environment, the papers' other systems."""

from __future__ import annotations

if __name__ != "es_rl.envs":
    raise ImportError(
        "this folder is the package 'es_rl.envs': install the project and import it by that name"
    )

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from es_rl.envs.char_lstm import CharLstmTask
    from es_rl.envs.gymnasium_task import GymnasiumTask
    from es_rl.envs.hyperparameter_tuning import HyperparameterTask
    from es_rl.envs.influence_balancing import InfluenceBalancingTask
    from es_rl.envs.learned_optimizer import LearnedOptimizerTask
    from es_rl.envs.learned_optimizer_torch import DifferentiableLearnedOptimizerTask
    from es_rl.envs.lorenz import LorenzTask
    from es_rl.envs.making import make_env, make_task
    from es_rl.envs.mujoco.task import MujocoTask
    from es_rl.envs.mujoco.vector import MujocoVectorEnv
    from es_rl.envs.torch_task import TorchTask

from es_rl.envs.registration import register_envs

register_envs()

_HOMES = {
    "CharLstmTask": "es_rl.envs.char_lstm",
    "DifferentiableLearnedOptimizerTask": "es_rl.envs.learned_optimizer_torch",
    "GymnasiumTask": "es_rl.envs.gymnasium_task",
    "HyperparameterTask": "es_rl.envs.hyperparameter_tuning",
    "InfluenceBalancingTask": "es_rl.envs.influence_balancing",
    "LearnedOptimizerTask": "es_rl.envs.learned_optimizer",
    "LorenzTask": "es_rl.envs.lorenz",
    "MujocoTask": "es_rl.envs.mujoco.task",
    "MujocoVectorEnv": "es_rl.envs.mujoco.vector",
    "TorchTask": "es_rl.envs.torch_task",
    "make_env": "es_rl.envs.making",
    "make_task": "es_rl.envs.making",
}

__all__ = [
    "CharLstmTask",
    "DifferentiableLearnedOptimizerTask",
    "GymnasiumTask",
    "HyperparameterTask",
    "InfluenceBalancingTask",
    "LearnedOptimizerTask",
    "LorenzTask",
    "MujocoTask",
    "MujocoVectorEnv",
    "TorchTask",
    "make_env",
    "make_task",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'es_rl.envs' has no attribute {name!r}")
