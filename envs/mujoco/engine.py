"""The native engine: persistent rows of one MuJoCo environment on MuJoCo's own batch engine."""

from __future__ import annotations

import copy
import ctypes
import os
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import mujoco
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from es_rl.envs.mujoco import copying, kernel
from es_rl.envs.mujoco.family import Setup
from es_rl.envs.mujoco.library import BatchConfig, load_library, without_clock
from es_rl.envs.mujoco.record import record_of
from es_rl.envs.mujoco.seeding import generators
from es_rl.normalization import RowNormalizers
from es_rl.perturbations import usable_cpus
from es_rl.policy_arrays import PolicyArrays
from es_rl.policy_kernels import scratch_size
from es_rl.tasks import RowNotResetError, State, UnrollResult

__all__ = ["MujocoEngine"]

_ERROR_SIZE = 1024


class MujocoEngine:
    """Many rows of one environment, each at its own step, on a pool of native threads.

    A row is MuJoCo's `mjSTATE_INTEGRATION` vector, and beside it what the environment reads of
    quantities that MuJoCo derives and does not keep there (see `Setup`). Results are the same
    bits whatever the number of threads. Calls must come from one thread at a time.

    Args:
        env: the Gymnasium environment to reproduce, `env.unwrapped`; read and left alone.
        setup: what its family's module says about it.
        n_threads: threads to step on; None for one per available processor.

    Attributes:
        n_rows: number of rows; 0 before `allocate`.
        n_observation: length of an observation.
        n_action: length of an action.
        n_threads: threads that step.
        finds_islands: whether MuJoCo looks for constraint islands, which it must where the model
            has several trees because its solver then treats each island apart.

    Raises:
        ValueError: if `n_threads` is not positive.
    """

    def __init__(self, env: Any, setup: Setup, n_threads: int | None = None) -> None:
        if n_threads is not None and n_threads < 1:
            raise ValueError(f"n_threads={n_threads}: must be a positive number of threads")
        self.n_threads = n_threads or usable_cpus()
        self.n_rows = 0
        self.n_observation = setup.n_observation
        self.n_action = int(env.model.nu)
        self._setup = setup
        self._kernel_address = setup.compile_kernel().address
        self._model = copy.copy(env.model)
        # one tree is one island: looking for more costs 6 to 14% of a step and changes no bit
        self.finds_islands = bool(env.model.ntree > 1)
        if not self.finds_islands:
            self._model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_ISLAND)
        self._record, self._kept = record_of(env, self._model, setup)
        self._batch: int | None = None
        self._close: Any = None

    @property
    def integrator(self) -> int:
        """MuJoCo's number of the integrator; rows may go on with another from one call to the next.

        See `es_rl.envs.mujoco.integrators`.
        """
        return int(self._model.opt.integrator)

    @integrator.setter
    def integrator(self, number: int) -> None:
        if number == self.integrator:
            return
        self._model.opt.integrator = number
        if self._batch is not None:
            # the batch has a copy of the model
            state = self.get_state()
            self.allocate(self.n_rows)
            self.set_state(state)

    def allocate(self, n_rows: int) -> None:
        """Make room for `n_rows` rows; what earlier ones held is gone.

        Raises:
            ValueError: if `n_rows` is not positive.
            MemoryError: if there is no room for so many simulations.
            RuntimeError: if MuJoCo cannot make them for another reason.
        """
        if n_rows < 1:
            raise ValueError(f"n_rows={n_rows}: must be positive")
        self.close()
        library = load_library()
        config = BatchConfig(min(self.n_threads, n_rows), False)
        message = ctypes.create_string_buffer(_ERROR_SIZE)
        batch = library.mjb_makeBatch(
            self._model._address, n_rows, ctypes.byref(config), message, _ERROR_SIZE
        )
        if not batch:
            text = message.value.decode()
            kind = MemoryError if "bad_alloc" in text else RuntimeError
            raise kind(f"MuJoCo made no batch of {n_rows} rows: {text}")
        self._batch, self._owner, self.n_rows = batch, os.getpid(), n_rows
        self._close = weakref.finalize(self, _delete_batch, batch, self._owner)
        n_state = library.mjb_nstate(batch)
        doubles = ctypes.POINTER(ctypes.c_double)
        self._states: NDArray[np.float64] = np.ctypeslib.as_array(
            ctypes.cast(library.mjb_state(batch), doubles), (n_rows, n_state)
        )
        self._status: NDArray[np.int32] = np.ctypeslib.as_array(
            ctypes.cast(library.mjb_status(batch), ctypes.POINTER(ctypes.c_int)), (n_rows,)
        )
        self._memory = np.zeros((n_rows, int(self._record["n_memory"])))
        self._ready = np.zeros(n_rows, np.bool_)
        self._place_of_row = np.zeros(n_rows, np.int64)
        self._record["memory"] = self._memory.ctypes.data
        self._record["place_of_row"] = self._place_of_row.ctypes.data

    def close(self) -> None:
        """Stop the threads and free the rows; harmless when done twice."""
        if self._batch is not None:
            self._batch, self.n_rows = None, 0
            del self._states, self._status
            self._close()

    def reset(self, rows: NDArray[np.int64], seeds: NDArray[np.uint64]) -> None:
        """Start each of `rows` (B,) as `env.reset(seed=seed)` would, with `seeds` (B,) uint64."""
        rows = self._check_rows(rows, ready=False)
        seeds = np.asarray(seeds)
        if seeds.shape != rows.shape or seeds.dtype != np.uint64:
            raise ValueError(
                f"seeds: expected {rows.shape} uint64, got {seeds.shape} {seeds.dtype}"
            )
        distinct, start_of_place = np.unique(seeds, return_inverse=True)
        places = np.ascontiguousarray(start_of_place, np.int64)
        self._begin(rows, generators(distinct), distinct.size, places)

    def restart(self, rows: NDArray[np.int64], sources: Sequence[Generator]) -> None:
        """Start each of `rows` (B,) as `env.reset()` would with its generator, which goes on."""
        rows = self._check_rows(rows, ready=False)
        if len(sources) != rows.size:
            raise ValueError(f"sources: expected {rows.size} generators, got {len(sources)}")
        self._begin(rows, sources, rows.size, np.arange(rows.size))

    def _begin(
        self,
        rows: NDArray[np.int64],
        sources: Iterable[Generator],
        n_starts: int,
        start_of_place: NDArray[np.int64],
    ) -> None:
        """Draw a start from each generator and give each row the one that is its own."""
        starts = np.empty((n_starts, self._model.nq + self._model.nv))
        for generator, out in zip(sources, starts, strict=True):
            self._setup.start(generator, out)
        self._apply(rows, kernel.RESET, starts=starts, start_of_place=start_of_place)
        self._ready[rows] = True

    def unroll(
        self,
        rows: NDArray[np.int64],
        policy: PolicyArrays,
        thetas: NDArray[np.float64],
        n_steps: NDArray[np.int64],
        normalizers: RowNormalizers | None = None,
    ) -> UnrollResult:
        """Advance `rows` (B,) by at most `n_steps` (B,) under policies of `thetas` (B, d) float64.

        A row stops after the step that terminates it, that makes its loss non-finite, or in which
        its simulation diverges; the latter's loss is NaN.

        Args:
            rows: (B,) distinct.
            policy: of all rows.
            thetas: (B, d).
            n_steps: (B,).
            normalizers: what each row sees observations through, where the policy normalises
                them; its sums over the observations acted on go on.
        """
        rows = self._check_rows(rows)
        thetas = np.ascontiguousarray(thetas, np.float64)
        n_steps = np.ascontiguousarray(n_steps)
        if thetas.ndim != 2 or thetas.shape[0] != rows.size:
            raise ValueError(f"thetas: expected ({rows.size}, d), got {thetas.shape}")
        if n_steps.shape != rows.shape or n_steps.dtype != np.int64:
            raise ValueError(
                f"n_steps: expected {rows.shape} int64, got {n_steps.shape} {n_steps.dtype}"
            )
        loss_sum = np.empty(rows.size)
        steps_taken, ended = np.empty(rows.size, np.int64), np.empty(rows.size, np.int64)
        record = self._record
        record["num_params"] = thetas.shape[1]
        record["n_sizes"] = policy.sizes.size
        record["has_bias"] = policy.has_bias
        record["activation"] = policy.activation
        record["n_scratch"] = scratch_size(policy.sizes)
        record["clip"] = policy.clip
        record["squash"] = policy.squash
        record["normalize"] = policy.normalize
        if policy.normalize:
            self._look_through(policy, normalizers)
        record["single"] = False
        self._apply(
            rows,
            kernel.WINDOW,
            thetas=thetas,
            sizes=policy.sizes,
            low=policy.low,
            high=policy.high,
            n_steps=n_steps,
            loss_sum=loss_sum,
            steps_taken=steps_taken,
            ended=ended,
        )
        return UnrollResult(loss_sum, steps_taken, ended.astype(np.bool_))

    def _look_through(self, policy: PolicyArrays, normalizers: RowNormalizers | None) -> None:
        """Put the addresses of the rows' normalisers into the record."""
        shape = (self.n_rows, self.n_observation)
        if normalizers is None or normalizers.means.shape != shape:
            raise ValueError(f"normalizers: of {shape} are needed, as the policy normalises")
        for name in ("means", "scales", "center", "moments"):
            self._record[name] = getattr(normalizers, name).ctypes.data
        self._record["observation_bound"] = policy.observation_bound.ctypes.data

    def step(
        self, rows: NDArray[np.int64], actions: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        """Take one step on `rows` (B,) under given `actions` (B, n_action).

        The cost of float32 actions is computed in float32, as NumPy does in the environment.

        Returns:
            Observations (B, n_observation), rewards (B,), whether each row terminated (B,), and
            whether its simulation diverged (B,), in which case MuJoCo has reset it to the model's
            own initial state, as it does under Gymnasium.
        """
        rows = self._check_rows(rows)
        self._record["single"] = np.asarray(actions).dtype == np.float32
        actions = np.ascontiguousarray(actions, np.float64)
        if actions.shape != (rows.size, self.n_action):
            raise ValueError(
                f"actions: expected ({rows.size}, {self.n_action}), got {actions.shape}"
            )
        observations = np.empty((rows.size, self.n_observation))
        rewards = np.empty(rows.size)
        terminated, diverged = np.empty(rows.size, np.int64), np.empty(rows.size, np.int64)
        self._apply(
            rows,
            kernel.STEP,
            actions=actions,
            observations=observations,
            rewards=rewards,
            terminated=terminated,
            diverged=diverged,
        )
        return observations, rewards, terminated.astype(np.bool_), diverged.astype(np.bool_)

    def observe(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the present observations (B, n_observation) of `rows` (B,)."""
        rows = self._check_rows(rows)
        observations = np.empty((rows.size, self.n_observation))
        self._apply(rows, kernel.OBSERVE, observations=observations)
        return observations

    def copy_rows(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        """Make the rows `target` (B,) exact copies of the rows `source` (B,)."""
        source, target = self._as_rows(source, "source"), self._check_rows(target, ready=False)
        if source.shape != target.shape:
            raise ValueError(f"source {source.shape} and target {target.shape} differ in shape")
        if not self._ready[source].all():
            raise RowNotResetError("source: some rows have not been reset yet")
        for values in (self._states, self._memory, self._ready):
            values[target] = values[source]

    def get_state(self) -> State:
        """Return all rows: `states` (n_rows, n_state), `memory` and `ready`, as copies."""
        self._check_alive()
        return {
            "states": self._states.copy(),
            "memory": self._memory.copy(),
            "ready": self._ready.copy(),
        }

    def set_state(self, state: State) -> None:
        """Go back to what `get_state` returned, here or in another process.

        Raises:
            ValueError: if the state is of another environment or number of rows.
        """
        self._check_alive()
        targets = {"states": self._states, "memory": self._memory, "ready": self._ready}
        for name, target in targets.items():
            if name not in state or state[name].shape != target.shape:
                shape = state[name].shape if name in state else "missing"
                raise ValueError(
                    f"state {name!r}: expected {target.shape}, got {shape}: it was saved with "
                    "another environment, number of pairs or version of MuJoCo"
                )
        for name, target in targets.items():
            target[:] = state[name]

    def __reduce__(self) -> tuple[Any, ...]:
        """Let copies and pickles be rebuilt; what the record points to stays this engine's."""
        state = self.get_state() if self.n_rows else None
        frame_skip = int(self._record["frame_skip"])
        parts = (type(self), self._model, frame_skip, self._setup, self.n_threads, state)
        return copying.rebuild, parts

    def _check_alive(self) -> int:
        """Return the batch, which must exist and belong to this process."""
        if self._batch is None:
            raise RuntimeError("no rows: call allocate(n_rows) first")
        if self._owner != os.getpid():
            raise RuntimeError(
                "this engine's threads stayed in the parent process of a fork: make a new task here"
            )
        return self._batch

    def _as_rows(self, rows: NDArray[np.int64], name: str) -> NDArray[np.int64]:
        """Return (B,) indices of rows that exist, as int64."""
        self._check_alive()
        rows = np.asarray(rows)
        if rows.ndim != 1 or rows.dtype.kind not in "ui":
            raise ValueError(f"{name}: expected (B,) integers, got {rows.shape} {rows.dtype}")
        rows = rows.astype(np.int64, copy=False)
        # negative ones are the largest unsigned numbers
        if rows.size and rows.view(np.uint64).max() >= self.n_rows:
            raise ValueError(f"{name}: must be 0 to {self.n_rows - 1}")
        return rows

    def _check_rows(self, rows: NDArray[np.int64], ready: bool = True) -> NDArray[np.int64]:
        """Return `rows` as distinct indices, each given its place in this call."""
        rows = self._as_rows(rows, "rows")
        places = np.arange(rows.size)
        self._place_of_row[rows] = places
        if (self._place_of_row[rows] != places).any():
            raise ValueError("rows: must be distinct")
        if ready and not self._ready[rows].all():
            raise RowNotResetError("rows: some have not been reset yet")
        return rows

    def _apply(self, rows: NDArray[np.int64], mode: int, **arrays: NDArray[Any]) -> None:
        """Run the kernel on `rows`, with the addresses of `arrays` in its record."""
        batch = self._check_alive()
        if rows.size == 0:
            return
        record = self._record
        record["mode"] = mode
        for name, array in arrays.items():
            record[name] = array.ctypes.data
        ids = rows.astype(np.int32)
        ids.sort()  # the batch engine ends the process over ids in another order
        library = load_library()
        with without_clock():
            failed = library.mjb_apply(
                batch,
                ids.ctypes.data,
                ids.size,
                self._kernel_address,
                record.ctypes.data,
                mode != kernel.OBSERVE,
            )
        if failed:
            row = int(rows[self._status[rows] != 0][0])
            message = library.mjb_error(batch, row).decode()
            raise RuntimeError(f"MuJoCo failed on {failed} rows, the first being {row}: {message}")


def _delete_batch(batch: int, owner: int) -> None:
    """Free a batch; in a forked child its threads are not there to be joined."""
    if os.getpid() == owner:
        load_library().mjb_deleteBatch(batch)
