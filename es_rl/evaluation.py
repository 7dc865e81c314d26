"""Evaluation of a policy: on plain Gymnasium environments, or on a task's own rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from es_rl.envs.making import close_env, make_env
from es_rl.episodes import play_episode
from es_rl.normalization import Normalizer, RowNormalizers
from es_rl.policies import Policy
from es_rl.tasks import NonFiniteLossError, UnrolledTask

__all__ = ["Evaluation", "evaluate", "evaluate_on_task"]


class Evaluation(NamedTuple):
    """Undiscounted returns of whole episodes.

    Attributes:
        rewards: (n,) float64, each episode's sum of rewards.
        lengths: (n,) int64, each episode's steps.
    """

    rewards: NDArray[np.float64]
    lengths: NDArray[np.int64]

    @property
    def mean(self) -> float:
        """Mean of the episodes' rewards."""
        return float(self.rewards.mean())

    @property
    def std(self) -> float:
        """Standard deviation over the episodes (of the population, as SB3 reports it)."""
        return float(self.rewards.std())

    @property
    def steps(self) -> int:
        """Environment steps that the evaluation took."""
        return int(self.lengths.sum())


def evaluate(
    policy: Policy,
    env_id: str,
    *,
    n_episodes: int = 20,
    seed: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
    import_modules: Sequence[str] = (),
    on_episode: Callable[[int, float], None] | None = None,
) -> Evaluation:
    """Evaluate on `gymnasium.make(env_id, **env_kwargs)`; episode i starts from seed + i.

    Args:
        policy: evaluated as it is.
        env_id: a registered environment.
        n_episodes: whole episodes to run.
        seed: of the first episode.
        env_kwargs: keyword arguments of the environment.
        import_modules: modules to import first, which register environments.
        on_episode: called with (episodes done, reward) after each episode.

    Raises:
        ValueError: if the policy does not fit, `n_episodes` is not positive, or the environment
            has no time limit to end an episode that does not end by itself.
        EnvironmentFaultError: if the environment raises or returns what cannot be used; it names
            the episode and its step.
        NonFiniteLossError: if an episode's reward becomes NaN or infinite.
    """
    if n_episodes < 1:
        raise ValueError(f"episodes={n_episodes}: must be a positive integer")
    for module in import_modules:
        import_module(module)
    env = make_env(env_id, **dict(env_kwargs or {}))
    try:
        policy.check_fits(env, env_id)
        if env.spec is None or env.spec.max_episode_steps is None:
            raise ValueError(
                f"{env_id}: it has no time limit, so an episode might never end; give one as the "
                "keyword argument max_episode_steps of the environment"
            )
        rewards = np.zeros(n_episodes)
        lengths = np.zeros(n_episodes, np.int64)
        for episode in range(n_episodes):
            for moment in play_episode(policy, env, env_id, episode=episode, seed=seed + episode):
                rewards[episode], lengths[episode] = moment.reward, moment.step
            if on_episode is not None:
                on_episode(episode + 1, float(rewards[episode]))
    finally:
        close_env(env, env_id)
    return Evaluation(rewards, lengths)


def evaluate_on_task(
    task: UnrolledTask,
    theta: NDArray[np.float64],
    *,
    n_episodes: int,
    seed: int = 0,
    normalizer: Normalizer | None = None,
) -> Evaluation:
    """Evaluate parameters on a task's rows, all episodes side by side.

    On a task of a Gymnasium environment these are the very numbers that `evaluate` gives. The
    task's rows are taken over: use another instance than the one being trained on.

    Args:
        task: must have a finite horizon.
        theta: (d,) float64.
        n_episodes: whole episodes to run.
        seed: of the first episode.
        normalizer: what observations are normalised with, if the task's policy does so; None
            leaves them as they are.

    Raises:
        ValueError: if the task has no horizon, `n_episodes` is not positive, or `theta` is not of
            the task's size.
        NonFiniteLossError: if a reward is NaN or infinite.
    """
    if n_episodes < 1:
        raise ValueError(f"episodes={n_episodes}: must be a positive integer")
    if theta.shape != (task.num_params,):
        raise ValueError(f"theta has shape {theta.shape}, the task takes ({task.num_params},)")
    if task.horizon is None:
        raise ValueError("evaluation needs a finite horizon: set one for this environment")
    task.allocate(n_episodes)
    rows = np.arange(n_episodes)
    task.reset(rows, np.arange(seed, seed + n_episodes, dtype=np.uint64))
    if normalizer is not None:
        normalizers: RowNormalizers | None = getattr(task, "normalizers", None)
        if normalizers is None:
            raise ValueError("normalizer: the task's policy does not normalise observations")
        normalizers.freeze(rows, normalizer)
    thetas = np.broadcast_to(theta, (n_episodes, task.num_params)).copy()
    result = task.unroll(rows, thetas, np.full(n_episodes, task.horizon, np.int64))
    bad = np.flatnonzero(~np.isfinite(result.loss_sum))
    if bad.size:
        name = str(getattr(task, "name", type(task).__name__))
        row = int(bad[0])
        raise _non_finite(name, row, result.steps_taken[row], result.loss_sum[row])
    # 0 - x and not -x: a sum of no loss is the reward 0, not -0
    return Evaluation(0.0 - result.loss_sum, result.steps_taken)


def _non_finite(name: str, episode: int, step: Any, loss: Any) -> NonFiniteLossError:
    return NonFiniteLossError(f"evaluation on {name}", episode, "mean", int(step), float(loss))
