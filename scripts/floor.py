"""The floor of training's cost: the same physics, and nothing else.

One training run is recorded: which rows were unrolled from which states, and the actions that the
policies chose. The floor then repeats those very simulation steps in a native loop that sets the
controls and calls `mj_step`, with the profiling clock and island discovery off, on the same number
of threads. What training takes above that is ours to answer for.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

from es_rl.envs.mujoco import kernel
from es_rl.envs.mujoco.fields import Simulation, doubles, field, integers
from es_rl.envs.mujoco.make import make_engine
from es_rl.policies import Policy
from es_rl.policy_kernels import forward, scratch_size
from es_rl.tasks import State, UnrollResult

_mj_step = types.ExternalFunction("mj_step", types.void(types.int64, types.int64))


@numba.cfunc(kernel.SIGNATURE)
def replay(model, data, row, argument):  # type: ignore[no-untyped-def]
    a = numba.carray(argument, 1)[0]
    simulation = Simulation(integers(data + a.at_qpos, 1)[0], a)
    ctrl = field(simulation, a.ctrl, a.nu)
    place = integers(a.place_of_row, row + 1)[row]
    n_steps = integers(a.n_steps, place + 1)[place]
    begin = integers(a.start_of_place, place + 1)[place]
    actions = doubles(a.actions + 8 * a.nu * begin, n_steps * a.nu)
    for step in range(n_steps):
        for i in range(a.nu):
            ctrl[i] = actions[step * a.nu + i]
        for _ in range(a.frame_skip):
            _mj_step(model, data)


class Call(NamedTuple):
    """One recorded unroll: what `replay` needs to repeat it."""

    rows: NDArray[np.int64]
    states: State
    steps: NDArray[np.int64]
    starts: NDArray[np.int64]
    actions: NDArray[np.float64]


class RecordingTask:
    """Stands before a native task and records its unrolls."""

    def __init__(self, task: Any, policy: Policy) -> None:
        self.task, self.policy = task, policy
        self.calls: list[Call] = []
        self.recording = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def unroll(
        self, rows: NDArray[np.int64], thetas: NDArray[np.float64], n_steps: NDArray[np.int64]
    ) -> UnrollResult:
        if not self.recording:
            result: UnrollResult = self.task.unroll(rows, thetas, n_steps)
            return result
        before = self.task.get_state()
        result = self.task.unroll(rows, thetas, n_steps)
        after = self.task.get_state()
        self.task.set_state(before)
        steps = result.steps_taken
        starts = np.concatenate([[0], np.cumsum(steps)[:-1]])
        engine = self.task.engine
        actions = np.empty((int(steps.sum()), engine.n_action))
        arrays = self.policy.arrays
        scratch = np.empty(scratch_size(arrays.sizes))
        for t in range(int(steps.max())):
            alive = np.flatnonzero(steps > t)
            observations = engine.observe(rows[alive])
            chosen = np.empty((alive.size, engine.n_action))
            for i, place in enumerate(alive):
                forward(
                    thetas[place], arrays.sizes, arrays.has_bias, arrays.activation,
                    observations[i], scratch, chosen[i],
                )  # fmt: skip
            actions[starts[alive] + t] = chosen
            engine.step(rows[alive], chosen)
        self.task.set_state(after)
        self.calls.append(Call(rows.copy(), before, steps.copy(), starts, actions))
        return result


class Floor:
    """Repeats recorded calls with `replay`, on an engine of its own."""

    def __init__(self, env_id: str, n_threads: int, calls: list[Call]) -> None:
        self.calls = calls
        self.engine, _ = make_engine(env_id, n_threads=n_threads)
        self.engine._kernel_address = replay.address
        self.engine.allocate(len(calls[0].states["ready"]))
        self.steps = sum(int(call.steps.sum()) for call in calls)

    def prepare(self, call: Call) -> None:
        """Load the states that the call starts from; not part of what is timed."""
        self.engine.set_state(call.states)

    def run(self, call: Call) -> None:
        """Repeat the call's simulation steps."""
        self.engine._apply(
            self.engine._check_rows(call.rows),
            kernel.WINDOW,
            n_steps=call.steps,
            start_of_place=call.starts,
            actions=call.actions,
        )

    def close(self) -> None:
        self.engine.close()
