"""Checks of an agent's arguments before anything is made of them: errors name the way out."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from es_rl.agents.policies import ESPolicy
from es_rl.estimator_options import is_integer

__all__ = [
    "MAX_SEED",
    "check_count",
    "check_kwargs",
    "check_policy",
    "check_rate",
    "check_scale",
    "check_seed",
]

MAX_SEED = 2**32 - 1


def check_policy(policy: Any, aliases: Sequence[str]) -> None:
    """Raise ValueError unless `policy` is one of the aliases or a class that can be trained."""
    if isinstance(policy, str):
        is_known = policy in aliases
    else:
        is_known = inspect.isclass(policy) and issubclass(policy, ESPolicy)
        is_known = is_known and hasattr(policy, "core_class")
    if not is_known:
        what = policy.__name__ if inspect.isclass(policy) else repr(policy)
        raise ValueError(
            f"policy={what}: choose one of {', '.join(aliases)}, or a subclass of those in "
            "es_rl.agents; other libraries' policies have no flat parameters to perturb"
        )


def check_rate(rate: Any, to_train: bool = True) -> None:
    """Raise ValueError unless `rate` is a positive number or a function.

    Args:
        rate: a learning rate.
        to_train: False for any number at all: RL Zoo loads agents to watch them with 0.
    """
    if callable(rate) or (_is_number(rate) and not (to_train and not 0 < rate < math.inf)):
        return
    raise ValueError(
        f"learning_rate={rate!r}: must be a positive number, or a function of the progress "
        "remaining, such as stable_baselines3.common.utils.LinearSchedule(0.1, 0.0, 1.0)"
    )


def check_seed(seed: Any) -> None:
    """Raise ValueError unless `seed` is one that every generator takes."""
    if not is_integer(seed) or not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed={seed!r}: must be an integer from 0 to 2**32 - 1")


def check_count(name: str, value: Any, least: int) -> None:
    """Raise ValueError unless `value` is an integer, at least `least`."""
    if not is_integer(value) or value < least:
        raise ValueError(f"{name}={value!r}: must be an integer, at least {least}")


def check_scale(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a number, and not negative."""
    if not (_is_number(value) and math.isfinite(value) and value >= 0):
        raise ValueError(f"{name}={value!r}: must be zero or a positive number")


def check_kwargs(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is None or holds keyword arguments."""
    if value is None:
        return
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{name}={value!r}: must be a dict of keyword arguments, or None")


def _is_number(value: Any) -> bool:
    # bool is an int, but True is no learning rate
    return is_integer(value) or (not isinstance(value, (bool, str)) and hasattr(value, "__float__"))
