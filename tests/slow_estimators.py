"""Slow twins of the estimators: one pair at a time, one step at a time, as the papers write them.

They share nothing with the library but the start steps. Noise and seeds come from the NumPy twins
in `reference`, systems are stepped directly.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import reference

from es_rl.staggering import start_steps


class _Worker:
    """One pair: its clock τ, its noise, and what it cost."""

    def __init__(self, estimator, pair):
        self.estimator, self.pair = estimator, pair
        self.episode, self.running = -1, False
        self.executed = self.episodes = 0
        self.loss = 0.0

    def begin(self):
        self.episode += 1
        self.segment = -1
        self.tau = 0
        self.running = True

    def fresh_system(self):
        system = self.estimator.system_class()
        system.reset(reference.episode_seed(self.estimator.seed, self.pair, self.episode))
        return system

    def next_noise(self):
        self.segment += 1
        e = self.estimator
        return reference.noise(e.seed, self.pair, self.episode, self.segment, e.sigma, e.d)

    def finish_if(self, ended):
        if ended or self.tau == self.estimator.horizon:
            self.running = False
            self.episodes += 1


class _Pair(_Worker):
    """GPES: the pseudo-code's loop, with its window taken step by step."""

    def window(self, theta, n_steps):
        """Advance the pair's clock by `n_steps`; return the sum of D·ξ over its parts, (d,)."""
        total = np.zeros(self.estimator.d)
        for _ in range(n_steps):
            if not self.running:
                self.begin()
                self.rows = [self.fresh_system(), self.fresh_system()]
                self.alive = [True, True]
            if self.tau % self.estimator.period == 0:
                self.epsilon = self.next_noise()
                self.xi = self.epsilon if self.tau == 0 else self.xi + self.epsilon
            for row, sign in ((0, 1.0), (1, -1.0)):
                if self.alive[row]:
                    loss, ended = self.rows[row].step(theta + sign * self.epsilon)
                    self.alive[row] = not ended
                    self.executed += 1
                    self.loss += loss
                    total += sign * loss * self.xi
            self.tau += 1
            self.finish_if(not any(self.alive))
        return total

    start = window


class _TruncatedPair(_Worker):
    """TES: the worker's own state is copied to the pair, and then advanced under θ."""

    def begin(self):
        super().begin()
        self.state = self.fresh_system()

    def _unroll(self, system, theta, n_steps):
        losses = 0.0
        for step in range(n_steps):
            loss, ended = system.step(theta)
            losses += loss
            self.executed += 1
            if ended:
                return losses, step + 1, True
        return losses, n_steps, False

    def window(self, theta, n_steps):
        total = np.zeros(self.estimator.d)
        while n_steps:
            if not self.running:
                self.begin()
            epsilon = self.next_noise()
            n = min(n_steps, self.estimator.horizon - self.tau)
            plus, plus_steps, _ = self._unroll(copy.copy(self.state), theta + epsilon, n)
            minus, minus_steps, _ = self._unroll(copy.copy(self.state), theta - epsilon, n)
            _, steps, ended = self._unroll(self.state, theta, n)
            self.loss += plus + minus
            total += (plus - minus) * epsilon
            advance = max(plus_steps, minus_steps, steps)
            self.tau += advance
            n_steps -= advance
            self.finish_if(ended)
        return total

    def start(self, theta, n_steps):
        while n_steps:
            if not self.running:
                self.begin()
            n = min(n_steps, self.estimator.horizon - self.tau)
            _, steps, ended = self._unroll(self.state, theta, n)
            self.tau += steps
            n_steps -= steps
            self.finish_if(ended)


class _WholeEpisode(_Worker):
    """FullES: a fresh episode for every estimate, and nothing after its end."""

    def window(self, theta, n_steps):
        self.begin()
        epsilon = self.next_noise()
        difference, longest = 0.0, 0
        for sign in (1.0, -1.0):
            system = self.fresh_system()
            for step in range(n_steps):
                loss, ended = system.step(theta + sign * epsilon)
                difference += sign * loss
                self.loss += loss
                self.executed += 1
                longest = max(longest, step + 1)
                if ended:
                    break
        self.episodes += 1
        self.longest = longest
        return difference * epsilon

    def start(self, theta, n_steps):
        """Nothing is started ahead."""


class SlowEstimator:
    """Any of the estimators, by the name that the library gives it."""

    def __init__(
        self,
        name,
        system_class,
        *,
        n_pairs,
        sigma,
        unroll_length=None,
        noise_period=None,
        horizon=None,
        staggering="lockstep",
        seed=0,
    ):
        self.system_class, self.d = system_class, system_class.num_params
        self.n_pairs, self.sigma, self.seed = n_pairs, sigma, seed
        self.unroll_length = horizon if name == "fulles" else unroll_length
        self.horizon = math.inf if horizon is None else horizon
        self.period = {"pes": unroll_length, "gpes": noise_period}.get(name) or math.inf
        kind = {"tes": _TruncatedPair, "fulles": _WholeEpisode}.get(name, _Pair)
        self.workers = [kind(self, pair) for pair in range(n_pairs)]
        self.starts = start_steps(staggering, n_pairs, self.unroll_length, horizon, seed)

    def _collect(self, calls):
        """Run the calls; return the results with executed steps, ended episodes and the losses."""
        before = [(w.executed, w.episodes, w.loss) for w in self.workers]
        results = [call() for call in calls]
        after = [(w.executed, w.episodes, w.loss) for w in self.workers]
        return results, *(np.array(after) - np.array(before)).sum(axis=0)

    def reset(self, theta):
        """Return (steps executed, episodes ended)."""
        _, executed, episodes, _ = self._collect(
            [
                lambda w=w, n=int(n): w.start(theta, n)
                for w, n in zip(self.workers, self.starts, strict=True)
            ]
        )
        return executed, episodes

    def estimate(self, theta):
        """Return (gradient, scale of its rounding, mean loss, steps executed, episodes ended)."""
        parts, executed, episodes, loss = self._collect(
            [lambda w=w: w.window(theta, self.unroll_length) for w in self.workers]
        )
        factor = 1.0 / (2 * self.sigma**2 * self.unroll_length * self.n_pairs)
        mean_loss = loss / (2 * self.n_pairs * self.unroll_length)
        return (
            np.sum(parts, axis=0) * factor,
            np.abs(parts).sum() * factor,
            mean_loss,
            executed,
            episodes,
        )
