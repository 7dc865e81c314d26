"""Copies of an engine: made again, since one that runs holds addresses of its own memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from es_rl.envs.mujoco.family import Setup
from es_rl.tasks import State

if TYPE_CHECKING:
    from es_rl.envs.mujoco.engine import MujocoEngine

__all__ = ["rebuild"]


def rebuild(
    kind: type[MujocoEngine],
    model: Any,
    frame_skip: int,
    setup: Setup,
    n_threads: int,
    state: State | None,
) -> MujocoEngine:
    """Return an engine that goes on, bit for bit, where another one was; what unpickling calls.

    Args:
        kind: its class.
        model: the other's mjModel, or a copy.
        frame_skip: simulation steps of a step.
        setup: the other's.
        n_threads: the other's.
        state: what its `get_state` returned; None if it had no rows.
    """
    env = SimpleNamespace(model=model, frame_skip=frame_skip)
    engine = kind(env, setup, n_threads)
    if state is not None:
        engine.allocate(len(state["ready"]))
        engine.set_state(state)
    return engine
