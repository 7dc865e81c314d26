"""Any Gymnasium environment as an unrolled task, on worker processes."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl.envs.faults import EnvironmentFaultError
from es_rl.envs.gymnasium_rows import (
    DIGEST_SIZE,
    Divergence,
    EpisodeRecord,
    Window,
    action_dtype,
)
from es_rl.envs.gymnasium_worker import RowsSpec
from es_rl.envs.making import EnvSource, close_env, maker_of
from es_rl.envs.mujoco.integrators import make_with, set_integrator
from es_rl.envs.mujoco.quiet import quiet
from es_rl.envs.worker_pool import LocalRows, WorkerPool, usable_cpus
from es_rl.normalization import RowNormalizers
from es_rl.policies import Policy
from es_rl.tasks import RowNotResetError, State, UnrollResult

__all__ = ["GymnasiumTask"]


class GymnasiumTask:
    """Rows of any Gymnasium environment; workers run the policy and send back whole windows.

    Losses are minus the rewards, summed in the order of time. A row has ended when its
    environment terminates or truncates by itself; an ended row takes no further steps until it
    is reset. The time limit of the environment's registration is not applied: it becomes
    `horizon`. Results do not depend on `n_workers`, bit for bit.

    Rows are copied exactly without taking a step (see `es_rl.envs.exact_copy` for what that asks
    of an environment). The state to resume from holds, for each row, the seed of its episode and
    the actions taken since, and is rebuilt by replaying them; a digest of all observations and
    rewards proves that the replay met the same episode. The state of a task that never resets
    therefore grows with every step.

    Attributes:
        env_id: id of the environment as it was given, or that of its spec, or its class's name.
        name: the same; the task's name in messages.
        num_params: d, length of a row's parameter vector.
        n_threads: how many rows are stepped at the same time.
        normalizers: what each row sees observations through; None unless the policy normalises.
        horizon: `max_episode_steps` of the keyword arguments (-1: None), else of the
            registration; None if there is none.

    Args:
        env_id: a registered id, also as "module:Id-v0"; or an `EnvSpec`; or a callable that takes
            `env_kwargs` and returns an environment.
        policy: what acts; its spaces must be those of the environment.
        n_workers: number of worker processes; None for one per usable CPU, 0 for none: the rows
            then live in this process.
        import_modules: modules to import first, here and in the workers, because they register
            environments.
        step_timeout: seconds that one step or reset may take before its worker is stopped and
            the row is named; None for no limit.
        integrator: one of `es_rl.envs.mujoco.integrators.INTEGRATORS` to simulate with in place of
            the model's own; None for the environment as it is.
        **env_kwargs: passed to `gymnasium.make`.

    Raises:
        gymnasium.error.Error: if there is no such environment.
        ValueError: if an option cannot be met or the policy does not fit the environment.
    """

    def __init__(
        self,
        env_id: EnvSource,
        policy: Policy,
        /,
        *,
        n_workers: int | None = None,
        import_modules: Sequence[str] = (),
        step_timeout: float | None = None,
        integrator: str | None = None,
        **env_kwargs: Any,
    ) -> None:
        if n_workers is not None and n_workers < 0:
            raise ValueError(f"n_workers={n_workers}: must be zero or a positive number")
        if step_timeout is not None:
            if not step_timeout > 0:
                raise ValueError(f"step_timeout={step_timeout}: must be a positive number")
            if n_workers == 0:
                raise ValueError(
                    f"step_timeout={step_timeout}: only worker processes can be stopped; "
                    "n_workers must not be 0"
                )
        max_steps = env_kwargs.pop("max_episode_steps", None)
        if max_steps is not None and max_steps != -1 and (max_steps < 1 or max_steps % 1):
            raise ValueError(
                f"max_episode_steps={max_steps}: must be a positive integer, or -1 for no limit"
            )
        for module in import_modules:
            importlib.import_module(module)
        with quiet():
            make_env, env, spec = maker_of(env_id, env_kwargs)
        if isinstance(env_id, str):
            self.env_id = env_id
        else:
            self.env_id = type(env.unwrapped).__name__ if spec is None else spec.id
        try:
            policy.check_fits(env, self.env_id)
            if integrator is not None:
                set_integrator(env, self.env_id, integrator)
                make_env = functools.partial(make_with, integrator, make_env, self.env_id)
        finally:
            close_env(env, self.env_id)
        self.name = self.env_id
        self.num_params = policy.num_params
        self.horizon = None if spec is None else spec.max_episode_steps
        if max_steps is not None:
            self.horizon = None if max_steps == -1 else int(max_steps)
        self._policy = policy
        self.normalizers: RowNormalizers | None = None
        if policy.arrays.normalize:
            self.normalizers = RowNormalizers(int(policy.arrays.sizes[0]))
        self._spec = RowsSpec(
            self.name, make_env, policy, tuple(import_modules), Divergence.of(env) is not None
        )
        self._n_workers = usable_cpus() if n_workers is None else n_workers
        self.n_threads = max(1, self._n_workers)
        self._step_timeout = step_timeout
        self._host: LocalRows | WorkerPool | None = None
        self._closed = False
        self._owner = np.empty(0, np.int64)
        self._started = np.empty(0, bool)

    def __enter__(self) -> GymnasiumTask:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers and close the environments; idempotent."""
        self._closed = True
        if self._host is not None:
            self._host.close()

    def allocate(self, n_rows: int) -> None:
        """Make room for `n_rows` rows, forgetting those that were there.

        Environments are made when their row is first reset.

        Raises:
            RuntimeError: if the task is closed.
            ValueError: if `n_rows` is not positive.
        """
        if self._closed:
            raise RuntimeError(f"{self.name}: the task is closed")
        if n_rows < 1:
            raise ValueError(f"n_rows={n_rows}: must be positive")
        # a worker without a pair would be idle
        n_workers = min(self._n_workers, (n_rows + 1) // 2)
        if self._host is not None and self._host.n_workers < n_workers:
            self._host.close()
            self._host = None
        if self._host is not None:
            self._host.call(dict.fromkeys(range(self._host.n_workers), ("clear", ())))
        elif n_workers == 0:
            self._host = LocalRows(self._spec)
        else:
            self._host = WorkerPool(self._spec, n_workers, self._step_timeout)
        # pairs in turn, as consecutive rows often have the same role and so the same work
        self._owner = np.arange(n_rows) // 2 % self._host.n_workers
        self._started = np.zeros(n_rows, bool)
        if self.normalizers is not None:
            self.normalizers.allocate(n_rows)

    def reset(self, rows: NDArray[np.int64], seeds: NDArray[np.uint64]) -> None:
        """Start a fresh episode on `rows` (B,) by `env.reset(seed=...)` with `seeds` (B,) uint64.

        Raises:
            EnvironmentFaultError: if an environment fails; its row must then be reset again.
            ValueError: if `rows` or `seeds` are not as described.
        """
        rows = self._check_rows(rows, started=False)
        seeds = np.asarray(seeds)
        if seeds.shape != rows.shape or not np.issubdtype(seeds.dtype, np.integer):
            raise ValueError(f"seeds of shape {seeds.shape}: one integer for each row is needed")
        self._started[rows] = True
        answers = self._share(
            "reset", rows, lambda part: (rows[part].tolist(), seeds[part].tolist())
        )
        self._raise_first([fault for _, faults in answers for fault in faults])

    def unroll(
        self,
        rows: NDArray[np.int64],
        thetas: NDArray[np.float64],
        n_steps: NDArray[np.int64],
    ) -> UnrollResult:
        """Advance each of `rows` (B,) by at most `n_steps` (B,) under its own `thetas` (B, d).

        Raises:
            EnvironmentFaultError: if an environment or a worker fails. After a fault of an
                environment the other rows have taken their steps, and the failed one must be
                reset; after the loss of a worker the task is closed.
            ValueError: if the arguments do not have these shapes, or a row was never reset.
        """
        rows = self._check_rows(rows)
        thetas, n_steps = np.asarray(thetas, np.float64), np.asarray(n_steps)
        if thetas.shape != (rows.size, self.num_params):
            raise ValueError(
                f"thetas of shape {thetas.shape}: ({rows.size}, {self.num_params}) is needed"
            )
        if n_steps.shape != rows.shape or (n_steps < 0).any():
            raise ValueError("n_steps: one number of steps, not negative, for each row is needed")
        answers: list[tuple[NDArray[np.int64], Window]] = self._share(
            "unroll",
            rows,
            lambda part: (
                rows[part].tolist(),
                thetas[part],
                n_steps[part].tolist(),
                None if self.normalizers is None else self.normalizers.share(rows[part]),
            ),
        )
        self._raise_first([fault for _, window in answers for fault in window.faults])
        result = UnrollResult(
            np.zeros(rows.size), np.zeros(rows.size, np.int64), np.zeros(rows.size, bool)
        )
        for part, window in answers:
            for whole, share in zip(result, window[:3], strict=True):
                whole[part] = share
            if self.normalizers is not None and window.moments is not None:
                self.normalizers.moments[rows[part]] = window.moments
        return result

    def copy_rows(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        """Make the rows `target` (B,) exact copies of the rows `source` (B,).

        A copy moves in with its original: environments never travel between processes.

        Raises:
            NotCopyableError: if an environment holds what cannot be copied exactly.
            ValueError: if the rows do not exist, a source was never reset or a target comes twice.
        """
        target = self._check_rows(target, started=False)
        source = self._check_rows(source, repeated=True)
        if source.shape != target.shape:
            raise ValueError(f"{source.size} source rows for {target.size} target rows")
        answers = self._share(
            "copy",
            source,
            lambda part: (list(zip(source[part].tolist(), target[part].tolist(), strict=True)),),
        )
        faults = [fault for _, share in answers for fault in share]
        self._started[target] = ~np.isin(source, [fault.row for fault in faults])
        before = self._owner[target]
        self._owner[target] = self._owner[source]
        moved = before != self._owner[target]
        leaving = {
            worker: ("drop", (target[moved & (before == worker)].tolist(),))
            for worker in np.unique(before[moved]).tolist()
        }
        if leaving:
            self._running().call(leaving)
        if faults:
            raise min(faults, key=lambda fault: fault.row)
        if self.normalizers is not None:
            self.normalizers.copy_rows(source, target)

    def get_state(self) -> State:
        """Return everything that resuming needs, n rows and m actions in all.

        `seeds` (n,) uint64, `started` (n,) bool, `ended` (n,) bool, `digests` (n, 16) uint8,
        `offsets` (n + 1,) int64 and `actions` (m, ...): actions `offsets[i]` to `offsets[i + 1]`
        belong to row i.
        """
        self._running()
        n_rows = self._started.size
        records: dict[int, EpisodeRecord] = {}
        rows = np.flatnonzero(self._started)
        if rows.size:
            for part, share in self._share("record", rows, lambda part: (rows[part].tolist(),)):
                records.update(zip(rows[part].tolist(), share, strict=True))
        none = EpisodeRecord(0, b"", bytes(DIGEST_SIZE), False)
        found = [records.get(row, none) for row in range(n_rows)]
        dtype, shape = action_dtype(self._policy), self._policy.action_space.shape or ()
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        seen = {} if self.normalizers is None else self.normalizers.get_state()
        return {
            **seen,
            "seeds": np.array([record.seed for record in found], np.uint64),
            "started": self._started.copy(),
            "ended": np.array([record.ended for record in found], bool),
            "digests": np.frombuffer(b"".join(record.digest for record in found), np.uint8).reshape(
                n_rows, DIGEST_SIZE
            ),
            "offsets": np.cumsum([0, *(len(record.actions) // size for record in found)]),
            "actions": np.frombuffer(b"".join(record.actions for record in found), dtype).reshape(
                -1, *shape
            ),
        }

    def set_state(self, state: State) -> None:
        """Go back to exactly the state that `get_state` returned, by replaying the actions.

        Raises:
            NotReproducibleError: if an environment does not repeat its episode bit for bit.
            EnvironmentFaultError: if an environment fails.
            ValueError: if the state is not one of this task's.
        """
        if missing := {"seeds", "started", "ended", "digests", "offsets", "actions"} - set(state):
            raise ValueError(f"{self.name}: saved state without {', '.join(sorted(missing))}")
        seeds, started, offsets = state["seeds"], state["started"], state["offsets"]
        actions, digests, ended = state["actions"], state["digests"], state["ended"]
        shape = self._policy.action_space.shape or ()
        if actions.shape[1:] != shape or actions.dtype != action_dtype(self._policy):
            raise ValueError(
                f"{self.name}: saved state with actions of shape {actions.shape[1:]} and dtype "
                f"{actions.dtype}; this policy takes {shape} and {action_dtype(self._policy)}"
            )
        n_rows = seeds.size
        shapes = [seeds.shape, started.shape, ended.shape, offsets.shape, digests.shape]
        if (
            shapes != [(n_rows,), (n_rows,), (n_rows,), (n_rows + 1,), (n_rows, DIGEST_SIZE)]
            or offsets[0] != 0
            or offsets[-1] != len(actions)
            or (np.diff(offsets) < 0).any()
        ):
            raise ValueError(f"{self.name}: saved state whose arrays do not belong together")
        self.allocate(n_rows)
        if self.normalizers is not None:
            self.normalizers.set_state(state)
        rows = np.flatnonzero(started)
        self._started[rows] = True

        def requests(part: NDArray[np.int64]) -> tuple[Any, ...]:
            return rows[part].tolist(), [
                EpisodeRecord(
                    int(seeds[row]),
                    actions[offsets[row] : offsets[row + 1]].tobytes(),
                    digests[row].tobytes(),
                    bool(ended[row]),
                )
                for row in rows[part]
            ]

        answers = self._share("replay", rows, requests)
        self._raise_first([fault for _, faults in answers for fault in faults])

    def _running(self) -> LocalRows | WorkerPool:
        if self._host is None:
            raise RuntimeError(f"{self.name}: allocate rows first")
        return self._host

    def _check_rows(
        self, rows: NDArray[np.int64], *, started: bool = True, repeated: bool = False
    ) -> NDArray[np.int64]:
        self._running()
        rows = np.asarray(rows, np.int64)
        n_rows = self._started.size
        if rows.ndim != 1 or ((rows < 0) | (rows >= n_rows)).any():
            raise ValueError(f"rows {rows}: a list of rows from 0 to {n_rows - 1} is needed")
        if not repeated and np.unique(rows).size != rows.size:
            raise ValueError(f"rows {rows}: a row may come only once")
        if started and not self._started[rows].all():
            missing = rows[~self._started[rows]]
            raise RowNotResetError(f"rows {missing}: reset them first")
        return rows

    def _share(
        self,
        command: str,
        rows: NDArray[np.int64],
        arguments: Callable[[NDArray[np.int64]], tuple[Any, ...]],
    ) -> list[tuple[NDArray[np.int64], Any]]:
        """Give each worker its part of `rows`; return (indices into `rows`, answer) pairs."""
        owner = self._owner[rows]
        parts = {w: np.flatnonzero(owner == w) for w in np.unique(owner).tolist()}
        answers = self._running().call({w: (command, arguments(p)) for w, p in parts.items()})
        return [(part, answers[worker]) for worker, part in parts.items()]

    def _raise_first(self, faults: list[EnvironmentFaultError]) -> None:
        """Raise the fault of the lowest row, after marking all failed rows as not started."""
        if not faults:
            return
        self._started[[fault.row for fault in faults]] = False
        raise min(faults, key=lambda fault: fault.row)
