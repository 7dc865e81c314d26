"""The native engine as an `UnrolledTask`."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from es_rl.envs.mujoco.make import engine_for, horizon_of
from es_rl.normalization import RowNormalizers
from es_rl.policies import Policy
from es_rl.tasks import State, UnrollResult

__all__ = ["MujocoTask"]


class MujocoTask:
    """Whole windows of one of Gymnasium's MuJoCo environments, without Python in between.

    An `es_rl.tasks.UnrolledTask`: rewards, observations, terminations and resets are bit for bit
    those of the Gymnasium environment that it was made from. Use it as a context manager, or call
    `close`, to stop its threads early.

    Args:
        env: the environment to reproduce, as `gymnasium.make` returns it; left in the middle of an
            episode.
        env_id: its id, for messages.
        policy: the policy whose parameters are unrolled.
        n_threads: threads to step on; None for one per available processor.

    Attributes:
        env_id: id of the environment.
        name: the same; the task's name in messages.
        num_params: d, length of a row's parameter vector.
        horizon: the registry's limit on an episode's steps, None if there is none.
        n_threads: threads that step.
        engine: the rows and the threads, for open-loop use.
        normalizers: what each row sees observations through; None unless the policy normalises.

    Raises:
        ValueError: if the policy does not fit, or the native engine cannot reproduce `env`.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        env_id: str,
        policy: Policy,
        *,
        n_threads: int | None = None,
    ) -> None:
        policy.check_fits(env, env_id)
        self.env_id = self.name = env_id
        self.horizon = horizon_of(env)
        self.num_params = policy.num_params
        self._policy = policy.arrays
        self.engine = engine_for(env, env_id, n_threads)
        self.n_threads = self.engine.n_threads
        self.normalizers: RowNormalizers | None = None
        if self._policy.normalize:
            self.normalizers = RowNormalizers(self.engine.n_observation)

    def allocate(self, n_rows: int) -> None:
        """Make room for `n_rows` rows. Rows must be reset before they are unrolled."""
        self.engine.allocate(n_rows)
        if self.normalizers is not None:
            self.normalizers.allocate(n_rows)

    def reset(self, rows: NDArray[np.int64], seeds: NDArray[np.uint64]) -> None:
        """Start each of `rows` (B,) as `env.reset(seed=seed)` would, with `seeds` (B,) uint64."""
        self.engine.reset(rows, seeds)

    def unroll(
        self,
        rows: NDArray[np.int64],
        thetas: NDArray[np.float64],
        n_steps: NDArray[np.int64],
    ) -> UnrollResult:
        """Advance each of `rows` (B,) by at most `n_steps` (B,) under its own `thetas` (B, d).

        The loss of a step is minus its reward; that of a simulation that diverges is NaN.

        Raises:
            ValueError: if a shape is wrong, a row repeats, is out of range or was never reset.
            RuntimeError: if MuJoCo fails.
        """
        if np.shape(thetas)[-1:] != (self.num_params,):
            raise ValueError(
                f"thetas: {self.env_id} takes (B, {self.num_params}), got {np.shape(thetas)}"
            )
        return self.engine.unroll(rows, self._policy, thetas, n_steps, self.normalizers)

    def copy_rows(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        """Make the rows `target` (B,) exact copies of the rows `source` (B,)."""
        self.engine.copy_rows(source, target)
        if self.normalizers is not None:
            self.normalizers.copy_rows(source, target)

    def get_state(self) -> State:
        """Return everything that resuming needs, also in another process."""
        state = self.engine.get_state()
        return state if self.normalizers is None else {**state, **self.normalizers.get_state()}

    def set_state(self, state: State) -> None:
        """Go back to exactly the state that `get_state` returned."""
        self.engine.set_state(state)
        if self.normalizers is not None:
            self.normalizers.set_state(state)

    def close(self) -> None:
        """Stop the threads and free the rows; harmless when done twice."""
        self.engine.close()

    def __enter__(self) -> MujocoTask:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
