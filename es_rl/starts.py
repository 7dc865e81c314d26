"""Several starts: each is trained for a while, the best of them to the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from es_rl.config import TrainConfig
from es_rl.evaluation import Evaluation
from es_rl.normalization import Normalizer
from es_rl.tasks import State, state_array, state_part
from es_rl.trainer import Trainer, UpdateRecord

__all__ = ["Judgement", "SeveralStarts", "config_under_way", "start_seed"]

Judge = Callable[[NDArray[np.float64], "Normalizer | None"], Evaluation]

_CLOCK = ("start", "begun_at", "is_chosen")


def start_seed(seed: int, start: int) -> int:
    """Return the seed of a start: the run's own of the first one, of its own of every other.

    Args:
        seed: the run's, 0 to 2**64 - 1.
        start: 0 for the first.
    """
    if start == 0:
        return seed
    return int(np.random.SeedSequence(seed, spawn_key=(start,)).generate_state(1, np.uint64)[0])


def config_under_way(config: TrainConfig, state: Mapping[str, NDArray[Any]]) -> TrainConfig:
    """Return the config that makes, of a run's state, a plain `Trainer` of the start under way.

    Args:
        config: the run's.
        state: what its trainer's `state_dict` returned.
    """
    if "starts/clock" not in state:
        return config
    seed = start_seed(config.seed, int(state["starts/clock"][0]))
    return replace(config, seed=seed, starts=None, start_steps=None, start_reward=None)


class Judgement(NamedTuple):
    """What became of a start that had its steps.

    Attributes:
        start: which, from 0.
        reward: mean reward of its policy.
        evaluation_steps: environment steps that judging it took.
        best: the start with the highest reward so far, the earlier one if equal.
        best_reward: that reward.
        is_last: whether training now goes on with `best`; else the next start begins.
    """

    start: int
    reward: float
    evaluation_steps: int
    best: int
    best_reward: float
    is_last: bool


def _unheard(judgement: Judgement) -> None:
    """Tell nobody."""


class SeveralStarts(Trainer):
    """Trains `n_starts` policies one after another for a while, and goes on with the best.

    A local optimum that a run falls into early, or not at all, is thus fallen into by fewer runs:
    by a share pⁿ of them, if p is the share of single runs that do, and those can be told by their
    reward. All steps of all starts count. The first start is the run that a `Trainer` would make;
    the best one goes on bit for bit as if nothing had come between.

    Args:
        make: returns a trainer that has not started, for a start (0 to n_starts - 1). They may
            share a task.
        judge: evaluates θ (d,) with its normalizer.
        n_starts: how many.
        start_steps: environment steps after which a start is judged, its own alone.
        good_reward: a start judged at this or above goes on at once, and no other begins.

    Attributes:
        start_number: the start under way, or gone on with.
        is_choosing: whether it is not yet known with which start to go on.
        on_judgement: told of every judgement.
    """

    def __init__(
        self,
        make: Callable[[int], Trainer],
        judge: Judge,
        n_starts: int,
        start_steps: int,
        *,
        good_reward: float | None = None,
    ) -> None:
        first = make(0)
        super().__init__(first.estimator, first.optimizer, first.theta)
        self._make, self._judge = make, judge
        self.n_starts, self.start_steps = n_starts, start_steps
        self.good_reward = math.inf if good_reward is None else good_reward
        self.start_number = self._begun_at = 0
        self.is_choosing = True
        self._best: tuple[int, float, State] | None = None
        self.on_judgement: Callable[[Judgement], None] = _unheard

    def update(self) -> UpdateRecord:
        """Make one update, of the next start if one has had its steps.

        Raises:
            NonFiniteLossError, FloatingPointError: as `Trainer.update`.
        """
        if self.is_choosing and self.total_steps - self._begun_at >= self.start_steps:
            self._next()
        return super().update()

    def _next(self) -> None:
        """Judge the start, and begin the next one, or go on with the best."""
        evaluation = self._judge(self.theta, self.estimator.normalizer)
        start = self.start_number
        if self._best is None or evaluation.mean > self._best[1]:
            self._best = (start, evaluation.mean, self._parts_state())
        best, reward, state = self._best
        is_last = start + 1 == self.n_starts or evaluation.mean >= self.good_reward
        if is_last:
            self._adopt(best)
            self._load_parts(state)
            self._best, self.is_choosing = None, False
        else:
            self._adopt(start + 1)
            self._begun_at, self._started = self.total_steps, False
        self.on_judgement(
            Judgement(start, evaluation.mean, evaluation.steps, best, reward, is_last)
        )

    def _adopt(self, start: int) -> None:
        """Take the parts of a start as they are before it begins."""
        made = self._make(start)
        self.estimator, self.optimizer, self.theta = made.estimator, made.optimizer, made.theta
        self.start_number = start

    def state_dict(self) -> State:
        """Return everything that continuing needs, the best start so far included."""
        state = super().state_dict()
        clock = (self.start_number, self._begun_at, not self.is_choosing)
        state["starts/clock"] = np.array(clock, np.int64)
        if self._best is not None:
            best, reward, parts = self._best
            state["starts/best"] = np.array(best, np.int64)
            state["starts/reward"] = np.array(reward, np.float64)
            state.update({f"starts/parts/{name}": value for name, value in parts.items()})
        return state

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on exactly where the trainer stood that gave `state`.

        Raises:
            ValueError: if the state is of a trainer with other settings.
        """
        starts = state_part(state, "starts/")
        if "clock" not in starts:
            raise ValueError("the training state is not of several starts")
        clock = state_array(starts, "clock", np.zeros(len(_CLOCK), np.int64))
        start, begun_at, is_chosen = (int(value) for value in clock)
        best = None
        if not is_chosen and start:
            missing = sorted({"best", "reward", "parts/theta"} - set(starts))
            if missing:
                raise ValueError(f"the training state lacks starts/{missing[0]}")
            number = int(state_array(starts, "best", np.zeros((), np.int64)))
            reward = float(state_array(starts, "reward", np.zeros(())))
            best = (number, reward, state_part(starts, "parts/"))
        if max(start, best[0] if best else 0) >= self.n_starts:
            raise ValueError(f"the training state is of more than {self.n_starts} starts")
        self._adopt(start)
        super().load_state_dict(state)
        self._begun_at, self.is_choosing, self._best = begun_at, not is_chosen, best
