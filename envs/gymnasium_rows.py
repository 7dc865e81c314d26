"""Persistent copies of a Gymnasium environment in one process, a window at a time.

The rows that a process holds, whether it is a worker or the main process itself: the same code,
hence the same bits, wherever a row lives.
"""

from __future__ import annotations

import hashlib
import math
import struct
import sys
import traceback
import warnings
from collections.abc import Callable, MutableSequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from es_rl.envs.checks import check_finite, real_reward
from es_rl.envs.exact_copy import exact_copy
from es_rl.envs.faults import (
    EnvironmentFaultError,
    NotCopyableError,
    NotReproducibleError,
    Phase,
)
from es_rl.envs.making import close_env
from es_rl.normalization import Normalizer, Share
from es_rl.policies import Policy
from es_rl.policy_kernels import accumulate

__all__ = ["DIGEST_SIZE", "Divergence", "EpisodeRecord", "GymnasiumRows", "Window", "action_dtype"]

DIGEST_SIZE = 16
"""Bytes of the digest of an episode so far."""

_BAD_QPOS, _BAD_CTRL = 3, 6  # range of mjtWarning that tells of a diverged simulation


class EpisodeRecord(NamedTuple):
    """An episode so far, as it can be rebuilt from its seed.

    Attributes:
        seed: seed of the reset.
        actions: raw bytes of all actions taken, in order, of `action_dtype`.
        digest: `DIGEST_SIZE` bytes that depend on every observation, reward and end.
        ended: whether the environment has ended.
    """

    seed: int
    actions: bytes
    digest: bytes
    ended: bool


class Window(NamedTuple):
    """What `GymnasiumRows.unroll` returns: `UnrollResult` and the faults of rows that failed.

    `moments`, (B, 2n), are the sums over the observations of a policy that normalises them.
    """

    loss_sum: NDArray[np.float64]
    steps_taken: NDArray[np.int64]
    ended: NDArray[np.bool_]
    faults: list[EnvironmentFaultError]
    moments: NDArray[np.float64] | None = None


class Divergence(NamedTuple):
    """MuJoCo's counters of bad positions, velocities, accelerations and controls.

    Attributes:
        data: the simulation, kept alive as long as the counters are looked at.
        counters: (4,) int, a view of the simulation's own.
    """

    data: Any
    counters: NDArray[Any]

    @classmethod
    def of(cls, env: gym.Env[Any, Any]) -> Divergence | None:
        """Return the counters of `env` if it keeps a MuJoCo simulation, as Gymnasium's own do."""
        mujoco = sys.modules.get("mujoco")
        data = getattr(env.unwrapped, "data", None)
        if mujoco is None or not isinstance(data, mujoco.MjData):
            return None
        return cls(data, data.warning.number[_BAD_QPOS : _BAD_CTRL + 1])


@dataclass(slots=True)
class _Row:
    """One environment and its episode so far, and MuJoCo's counters if it has any."""

    env: gym.Env[Any, Any]
    divergence: Divergence | None
    observation: Any
    seed: int
    actions: bytearray
    digest: bytes
    steps: int
    ended: bool


def action_dtype(policy: Policy) -> np.dtype[Any]:
    """Return the dtype of the actions that `policy` takes: int64 (discrete) or float64."""
    return np.dtype(np.int64 if policy.is_discrete else np.float64)


class GymnasiumRows:
    """Rows of one environment, by number, in this process.

    Args:
        name: id of the environment, for messages.
        make_env: makes a fresh environment.
        policy: what acts in it.
        progress: three integers, kept up to date with (phase, row, step) so that whoever
            watches from outside can tell where this process is.
    """

    def __init__(
        self,
        name: str,
        make_env: Callable[[], gym.Env[Any, Any]],
        policy: Policy,
        progress: MutableSequence[int],
    ) -> None:
        self.name = name
        self.make_env = make_env
        self.policy = policy
        self.progress = progress
        self._rows: dict[int, _Row] = {}

    def clear(self) -> None:
        """Close and forget all rows."""
        self.drop(list(self._rows))

    def drop(self, rows: list[int]) -> None:
        """Close and forget `rows`; those that were never made are ignored."""
        for index in rows:
            row = self._rows.pop(index, None)
            if row is not None:
                close_env(row.env, self.name)

    def reset(self, rows: list[int], seeds: list[int]) -> list[EnvironmentFaultError]:
        """Start an episode on each of `rows`; return the faults of those that failed."""
        faults = []
        for index, seed in zip(rows, seeds, strict=True):
            try:
                self._reset(index, seed)
            except EnvironmentFaultError as fault:
                faults.append(fault)
        self.progress[0] = Phase.IDLE
        return faults

    def unroll(
        self,
        rows: list[int],
        thetas: NDArray[np.float64],
        n_steps: list[int],
        share: Share | None = None,
    ) -> Window:
        """Advance each of `rows` (B,) under its own `thetas` (B, d) by at most `n_steps` (B,).

        A row that fails does not keep the others from their window. `share` is what the rows see
        observations through, where the policy normalises them.
        """
        # read-only parameters would make numba compile a second kernel
        thetas = np.require(thetas, np.float64, ["C", "W"])
        if share is not None:
            share = Share(*(np.require(array, np.float64, ["C", "W"]) for array in share))
        result = Window(
            np.zeros(len(rows)),
            np.zeros(len(rows), np.int64),
            np.zeros(len(rows), bool),
            [],
            None if share is None else share.moments,
        )
        for i, index in enumerate(rows):
            row = self._rows[index]
            try:
                with self._watched(index):
                    result.loss_sum[i], result.steps_taken[i] = self._advance(
                        row, thetas[i], n_steps[i], None if share is None else _place(share, i)
                    )
            except EnvironmentFaultError as fault:
                result.faults.append(fault)
            result.ended[i] = row.ended and math.isfinite(result.loss_sum[i])
        self.progress[0] = Phase.IDLE
        return result

    def copy(self, pairs: list[tuple[int, int]]) -> list[EnvironmentFaultError]:
        """Make, for each (source, target), row target an exact copy of row source."""
        sources = {source for source, _ in pairs}
        copies: dict[int, _Row] = {}
        faults = []
        for source, target in pairs:
            # a target that is itself copied must keep its state until the end
            discarded = None if target in sources else self._rows.pop(target, None)
            try:
                copies[target] = self._copy(source, discarded)
            except EnvironmentFaultError as fault:
                faults.append(fault)
        self.drop([target for target in copies if target in self._rows])
        self._rows.update(copies)
        self.progress[0] = Phase.IDLE
        return faults

    def record(self, rows: list[int]) -> list[EpisodeRecord]:
        """Return the episodes so far of `rows`."""
        found = (self._rows[index] for index in rows)
        return [EpisodeRecord(r.seed, bytes(r.actions), r.digest, r.ended) for r in found]

    def replay(self, rows: list[int], records: list[EpisodeRecord]) -> list[EnvironmentFaultError]:
        """Rebuild each of `rows` from its record; return the faults of those that failed."""
        faults = []
        for index, record in zip(rows, records, strict=True):
            try:
                self._replay(index, record)
            except EnvironmentFaultError as fault:
                faults.append(fault)
        self.progress[0] = Phase.IDLE
        return faults

    def _reset(self, index: int, seed: int) -> None:
        row = self._rows.get(index)
        if row is None:
            with self._watched(index, Phase.MAKING), warnings.catch_warnings():
                # the main process has made one of these already and shown what they warn of
                warnings.simplefilter("ignore")
                env = self.make_env()
            row = _Row(env, None, None, 0, bytearray(), b"", 0, False)
            self._rows[index] = row
        row.seed, row.steps, row.ended = seed, 0, False
        row.actions.clear()
        with self._watched(index, Phase.RESETTING):
            row.observation, _ = row.env.reset(seed=seed)
            row.digest = self._digest(b"", row, 0.0)
        row.divergence = Divergence.of(row.env)
        if row.divergence is not None:
            row.divergence.counters[:] = 0

    def _advance(
        self, row: _Row, theta: NDArray[np.float64], n_steps: int, own: Share | None
    ) -> tuple[float, int]:
        """Take at most `n_steps` steps; return (sum of losses, steps taken)."""
        total, taken = 0.0, 0
        flatten, act_on = self.policy.flatten_observation, self.policy.act_on
        normalizer = None if own is None else Normalizer(own.means, own.scales)
        while taken < n_steps and not row.ended:
            flat = flatten(row.observation)
            if own is not None:
                accumulate(flat, own.center, own.moments)
            action = act_on(theta, flat, normalizer)
            row.actions += action.tobytes()
            total -= self._step(row, action)
            taken += 1
            if row.divergence is not None and row.divergence.counters.any():
                # MuJoCo has reset the simulation without a word: the row's loss is no number
                return math.nan, taken
            if not math.isfinite(total):
                break
        return total, taken

    def _step(self, row: _Row, action: Any) -> float:
        """Take one step and return its reward."""
        row.steps += 1
        self.progress[2] = row.steps
        row.observation, reward, terminated, truncated, _ = row.env.step(action)
        value = real_reward(reward)
        row.ended = bool(terminated or truncated)
        row.digest = self._digest(row.digest, row, value)
        return value

    def _digest(self, previous: bytes, row: _Row, reward: float) -> bytes:
        observation = self.policy.flatten_observation(row.observation)
        diverged = row.divergence is not None and row.divergence.counters.any()
        if math.isfinite(reward) and not diverged:
            check_finite(observation)
        content = observation.tobytes() + struct.pack("<d?", reward, row.ended)
        return hashlib.blake2b(previous + content, digest_size=DIGEST_SIZE).digest()

    def _copy(self, source: int, discarded: _Row | None) -> _Row:
        row = self._rows[source]
        if discarded is not None:
            close_env(discarded.env, self.name)
        with self._watched(source, Phase.COPYING):
            env, observation = exact_copy(
                row.env, row.observation, None if discarded is None else discarded.env
            )
        return _Row(
            env,
            Divergence.of(env),
            observation,
            row.seed,
            bytearray(row.actions),
            row.digest,
            row.steps,
            row.ended,
        )

    def _replay(self, index: int, record: EpisodeRecord) -> None:
        self._reset(index, record.seed)
        row = self._rows[index]
        row.actions += record.actions
        space = self.policy.action_space
        actions = np.frombuffer(bytearray(record.actions), action_dtype(self.policy))
        with self._watched(index, Phase.REPLAYING):
            for action in actions.reshape(-1, *(space.shape or ())):
                self._step(row, action)
        if (row.digest, row.ended) != (record.digest, record.ended):
            raise NotReproducibleError(
                self.name,
                Phase.REPLAYING,
                index,
                row.steps,
                "the environment is not reproducible from its seed: the same actions gave other "
                "observations, rewards or ends than before, so the saved episode cannot be "
                "rebuilt. Its randomness must come from self.np_random alone, or the versions "
                "that it depends on have changed",
            )

    def _watched(self, index: int, phase: Phase = Phase.STEPPING) -> _Watch:
        self.progress[0], self.progress[1] = phase, index
        row = self._rows.get(index)
        self.progress[2] = 0 if row is None else row.steps
        return _Watch(self)


class _Watch:
    """Names environment, row and step of whatever an environment raises."""

    def __init__(self, rows: GymnasiumRows) -> None:
        self.rows = rows

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not isinstance(error, Exception):
            return
        phase, row, step = self.rows.progress
        reason = traceback.format_exception_only(error)[-1].strip()
        details = "".join(traceback.format_exception(error)).rstrip()
        fault = EnvironmentFaultError
        if phase == Phase.COPYING:
            fault = NotCopyableError
            reason = (
                "this environment cannot be copied exactly, which TES needs; choose another "
                f"algorithm, or give it __getstate__ and __setstate__ of its own ({reason})"
            )
        raise fault(self.rows.name, Phase(phase), row, step, reason, details) from error


def _place(share: Share, i: int) -> Share:
    """Return views of what belongs to the row at place i."""
    return Share(share.means[i], share.scales[i], share.center, share.moments[i])
