"""What an estimator keeps of its N workers: settings, clocks and noises, to save and to restore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from es_rl.block_sums import BLOCK_PAIRS
from es_rl.drift import Drift
from es_rl.estimator_options import DEFAULTS, is_integer, positive_integer, real_number
from es_rl.gradient_sum import GradientSum, KeptSum
from es_rl.noise_designs import NOISES
from es_rl.normalization import RowNormalizers, Statistics
from es_rl.shaping import Shaping
from es_rl.sigma_adaptation import SigmaAdaptation
from es_rl.staggering import check_staggering
from es_rl.tasks import State, UnrolledTask, state_array, state_part
from es_rl.unroll_adaptation import UnrollAdaptation
from es_rl.unroll_range import check_range, range_text

__all__ = ["NEVER", "PER_PAIR", "PER_ROW", "TASK_PREFIX", "WorkerState"]

NEVER = int(np.iinfo(np.int64).max)
"""The step that no worker reaches: the end of an episode without a horizon."""

_MAX_STEP = 2**62
"""Of clocks in a file: what is added to them does not wrap around."""

PER_PAIR = ("step", "episode", "segment", "finished")
PER_ROW = ("row_ended",)
"""Of a state: the arrays with an entry for each pair, and for each row."""

TASK_PREFIX = "task/"
"""What the names of the task's own arrays begin with in a state."""

_OBSERVATIONS, _ADAPTATION, _UNROLLS = "observations/", "adaptation/", "unrolls/"
_WITHOUT_OPTIONS: dict[str, Any] = {**DEFAULTS, "top_pairs": 0, "unroll_range": "none"}
"""Settings that a state holds only where they differ from these."""


class WorkerState:
    """Checked settings, and the clocks and noises of the N workers that run under them.

    A worker is a pair of rows (for TES, a pair and the row of its mean state) with a clock τ of
    its own inside its episode. How workers move on is `es_rl.unrolling.UnrolledWorkers`'.
    """

    rows_per_worker: ClassVar[int] = 2
    whole_episodes: ClassVar[bool] = False
    can_refresh: ClassVar[bool] = False
    fixed_window: ClassVar[str] = "has windows of one length"
    """Why W cannot be adapted; empty where it can."""

    def __init__(
        self,
        task: UnrolledTask,
        *,
        n_pairs: int,
        unroll_length: int,
        sigma: float,
        horizon: int | None,
        staggering: str,
        seed: int,
        shaping: str = "none",
        top_pairs: int | None = None,
        reward_offset: float = 0.0,
        noise: str = "gaussian",
        adapt_sigma: float = 0.0,
        refresh_drift: float = 0.0,
        unroll_range: Sequence[int] | None = None,
    ) -> None:
        self.task = task
        self.n_pairs = positive_integer("n_pairs", n_pairs)
        self.unroll_length = positive_integer("unroll_length", unroll_length)
        # the estimate divides by σ², which must neither vanish nor overflow
        rule = "must be a positive number (1e-150 to 1e150)"
        self.sigma = real_number("sigma", sigma, rule, 1e-150, 1e150)
        length = task.horizon if horizon is None else horizon
        self.horizon = None if length is None else positive_integer("horizon", length)
        self.staggering = check_staggering(staggering)
        if not is_integer(seed) or not 0 <= seed < 2**64:
            raise ValueError(f"seed={seed}: must be an integer from 0 to 2**64 - 1")
        self.seed = int(seed)
        if top_pairs is not None:
            top_pairs = positive_integer("top_pairs", top_pairs)
        self.shaping = Shaping(shaping, self.n_pairs, top_pairs, self.whole_episodes)
        self.reward_offset = real_number("reward_offset", reward_offset, "must be a finite number")
        if noise not in NOISES:
            raise ValueError(f"noise={noise!r}: choose one of {', '.join(NOISES)}")
        self.noise = noise
        rule = "must be zero or a positive number"
        self.adapt_sigma = real_number("adapt_sigma", adapt_sigma, rule, 0.0)
        self._adaptation: SigmaAdaptation | None = None
        if self.adapt_sigma:
            if noise.startswith("orthogonal"):
                raise ValueError(
                    f"adapt_sigma={adapt_sigma}: compares pairs whose noises are independent, "
                    "which orthogonal ones are not; choose another noise"
                )
            self._adaptation = SigmaAdaptation(self.sigma, self.adapt_sigma, self.n_pairs)
        self.refresh_drift = real_number("refresh_drift", refresh_drift, rule, 0.0)
        if self.refresh_drift and not self.can_refresh:
            raise ValueError(
                f"refresh_drift={refresh_drift}: {type(self).__name__} begins every episode under "
                "today's θ and has nothing to refresh; leave it out"
            )
        self.unroll_range = self._checked_range(unroll_range)
        self._unrolls: UnrollAdaptation | None = None
        self._n_threads: int | None = getattr(task, "n_threads", None)
        self._normalizers: RowNormalizers | None = getattr(task, "normalizers", None)
        self.statistics: Statistics | None = None
        self._earlier_statistics: State | None = None
        if self._normalizers is not None:
            self.statistics = Statistics(self._normalizers.size)
        self._end = NEVER if self.horizon is None else self.horizon
        self._started = False
        self._first_pair, self._n_held = 0, self.n_pairs

    def _checked_range(self, unroll_range: Sequence[int] | None) -> tuple[int, int] | None:
        if unroll_range is None:
            return None
        try:
            checked = check_range(unroll_range)
        except ValueError as error:
            raise ValueError(f"unroll_range={unroll_range}: {error}") from None
        if self.fixed_window:
            raise ValueError(
                f"unroll_range={range_text(checked)}: {type(self).__name__} {self.fixed_window}; "
                "leave it out, or take NRES or GPES"
            )
        return checked

    def hold(self, first_pair: int, n_held: int) -> None:
        """Take only some of the N pairs, and leave the others to estimators elsewhere.

        Noise, seeds and start steps go by the number among all pairs, so that a share is the
        same whoever holds it. Call it before `reset` or `load_state_dict`.

        Args:
            first_pair: number of the first pair held, a multiple of `BLOCK_PAIRS`.
            n_held: how many follow one another from there.

        Raises:
            ValueError: if there are no such pairs, or a block is begun in its middle.
        """
        if self._adaptation is not None:
            raise ValueError(
                f"adapt_sigma={self.adapt_sigma}: needs all pairs in one process; leave it out"
            )
        if self._unrolls is not None:
            raise ValueError(
                f"unroll_range={range_text(self.unroll_range)}: needs all pairs in one process; "
                "leave it out"
            )
        if first_pair % BLOCK_PAIRS or not 0 <= first_pair < first_pair + n_held <= self.n_pairs:
            raise ValueError(
                f"pairs {first_pair} to {first_pair + n_held - 1}: must be some of the "
                f"{self.n_pairs}, from a multiple of {BLOCK_PAIRS} on"
            )
        self._first_pair, self._n_held = int(first_pair), int(n_held)
        self._started = False

    def _allocate(self) -> None:
        n, d = self._n_held, self.task.num_params
        n_rows = self.rows_per_worker * n
        self.task.allocate(n_rows)
        self._step = np.zeros(n, np.int64)  # τ
        self._episode = np.full(n, -1, np.int64)
        self._segment = np.zeros(n, np.int64)
        self._finished = np.ones(n, np.bool_)  # the next episode begins when steps are asked for
        self._row_ended = np.zeros(n_rows, np.bool_)
        self._sigmas = np.full(n, self.sigma)  # of each pair's running episode
        self._ratios: list[NDArray[np.float64]] = []  # σ over those of the pairs, by part
        if self._unrolls is not None:
            self._unrolls.reset()
        self._epsilon = np.zeros((n, d))
        self._accumulated: NDArray[np.float64] | None = None  # ξ, where it is not ε itself
        plain = self.shaping.is_identity and self._adaptation is None
        kind = GradientSum if plain else KeptSum
        self._sum = kind(n, d, self._n_threads)
        self._drift = Drift(self.refresh_drift, n, d) if self.refresh_drift else None
        self._thetas = np.empty((n_rows, d))

    def state_dict(self) -> State:
        """Return everything that continuing needs, the task's rows included.

        Noise is not in it: it is drawn again from its counters.
        """
        if not self._started:
            raise RuntimeError("call reset(theta) before state_dict()")
        state: State = {
            **self._settings(),
            **{name: getattr(self, f"_{name}").copy() for name in (*PER_PAIR, *PER_ROW)},
        }
        state.update({TASK_PREFIX + name: value for name, value in self.task.get_state().items()})
        if self._adaptation is not None:
            state["sigmas"] = self._sigmas.copy()
        if self._drift is not None:
            state.update(self._drift.state_dict())
        return {**state, **self.observation_state(), **self._adaptation_state()}

    def _load_workers(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Put all but the noise back to where the estimator stood that gave `state`.

        Raises:
            ValueError: if the state is of an estimator with other settings.
        """
        self._check_settings(state)
        self._allocate()
        for name in (*PER_PAIR, *PER_ROW):
            target: NDArray[Any] = getattr(self, f"_{name}")
            if name not in state:
                raise ValueError(f"the state of the estimator lacks {name!r}")
            if (state[name].shape, state[name].dtype) != (target.shape, target.dtype):
                raise ValueError(
                    f"the state is of an estimator with other settings: {name!r} is "
                    f"{state[name].dtype} of shape {state[name].shape}, here it is {target.dtype} "
                    f"of shape {target.shape}"
                )
            target[:] = state[name]
        self._check_clocks()
        self.task.set_state(state_part(state, TASK_PREFIX))
        self.load_observation_state(state)
        self._load_adaptation(state)
        if self._adaptation is not None:
            if "sigmas" not in state:
                raise ValueError("the state of the estimator lacks 'sigmas'")
            self._sigmas[:] = state_array(state, "sigmas", self._sigmas)
            if not (self._sigmas > 0.0).all():
                raise ValueError("'sigmas' of a saved state: must be positive")
        if self._drift is not None:
            self._drift.load_state_dict(state)

    def _check_clocks(self) -> None:
        """Raise ValueError where no run can stand, as in a file that was made by hand."""
        running = ~self._finished
        last = min(self._end, _MAX_STEP)
        for name, values, low, high in (
            ("step", self._step, 0, last),
            # a running episode has been given a number, and no step has two noises; that of TES
            # may still wait for its first
            ("episode", self._episode, np.where(running, 0, -1), _MAX_STEP),
            ("segment", self._segment, -1, np.maximum(self._step, 0)),
        ):
            if ((values < low) | (values > high)).any():
                raise ValueError(f"{name!r} of a saved state: has impossible entries")
        if (self._step[running] >= self._end).any():
            raise ValueError("'finished' of a saved state: an episode goes on behind its end")

    def _adaptation_state(self) -> State:
        state: State = {}
        if self._adaptation is not None:
            state |= {_ADAPTATION + n: v for n, v in self._adaptation.state_dict().items()}
        if self._unrolls is not None:
            state |= {_UNROLLS + n: v for n, v in self._unrolls.state_dict().items()}
        return state

    def _load_adaptation(self, state: Mapping[str, NDArray[Any]]) -> None:
        if self._adaptation is not None:
            self._adaptation.load_state_dict(state_part(state, _ADAPTATION))
        if self._unrolls is not None:
            self._unrolls.load_state_dict(state_part(state, _UNROLLS))

    def observation_state(self) -> State:
        """Return the observations' statistics, as part of the state; nothing if there are none."""
        if self.statistics is None:
            return {}
        return {_OBSERVATIONS + n: v for n, v in self.statistics.state_dict().items()}

    def load_observation_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take the observations' statistics from a whole `state`.

        Raises:
            ValueError: if it has none and they are normalised, or the other way about.
        """
        found = state_part(state, _OBSERVATIONS)
        if bool(found) != (self.statistics is not None):
            raise ValueError(
                f"normalize_observations={self.statistics is not None}: the state is of an "
                "estimator with the other setting; go on with that, or start afresh"
            )
        if self.statistics is not None:
            self.statistics.load_state_dict(found)

    def _settings(self) -> State:
        """Return the settings that make a run what it is, 0 for none."""
        return {
            "sigma": np.array(self.sigma),
            "seed": np.array(self.seed, np.uint64),
            "unroll_length": np.array(self.unroll_length),
            "horizon": np.array(self.horizon or 0),
            **{n: np.array(v) for n, v in self._options().items() if v != _WITHOUT_OPTIONS[n]},
        }

    def _options(self) -> dict[str, Any]:
        return {
            "shaping": self.shaping.name,
            "top_pairs": self.shaping.n_kept % self.n_pairs,
            "reward_offset": self.reward_offset,
            "noise": self.noise,
            "adapt_sigma": self.adapt_sigma,
            "refresh_drift": self.refresh_drift,
            "unroll_range": range_text(self.unroll_range),
        }

    def _check_settings(self, state: Mapping[str, NDArray[Any]]) -> None:
        absent = {name: np.array(value) for name, value in _WITHOUT_OPTIONS.items()}
        state = {**absent, **state}
        for name, value in {**absent, **self._settings()}.items():
            if name not in state:
                raise ValueError(f"the state of the estimator lacks {name!r}")
            if not np.array_equal(state[name], value):
                raise ValueError(
                    f"{name}={value}: the state is of an estimator with {name}={state[name]}; "
                    "go on with that, or start afresh"
                )
