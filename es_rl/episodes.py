"""Whole episodes of one environment under a policy, checked at every step as in training."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium as gym

from es_rl.envs.checks import check_finite, real_reward
from es_rl.envs.faults import EnvironmentFaultError, Phase
from es_rl.envs.gymnasium_rows import Divergence
from es_rl.policies import Policy
from es_rl.tasks import NonFiniteLossError

__all__ = ["Moment", "play_episode"]


class Moment(NamedTuple):
    """A state of an episode.

    Attributes:
        episode: its number, from 0.
        step: steps taken.
        reward: sum of the rewards so far.
        is_last: whether the episode ends here.
    """

    episode: int
    step: int
    reward: float
    is_last: bool


def play_episode(
    policy: Policy, env: gym.Env[Any, Any], name: str, *, episode: int, seed: int
) -> Iterator[Moment]:
    """Run one episode of `env`, called `name` in messages, from `seed`.

    Yields:
        The start of the episode and the moment after each step.

    Raises:
        EnvironmentFaultError: if the environment raises or returns what cannot be used.
        NonFiniteLossError: if a reward is NaN or infinite, or the simulation diverges.
    """
    step, total, done = 0, 0.0, False
    try:
        observation, _ = env.reset(seed=seed)
        flat = policy.flatten_observation(observation)
        check_finite(flat)
    except (Exception, SystemExit) as error:
        raise _fault(name, episode, seed, step, error) from error
    divergence = Divergence.of(env)
    if divergence is not None:
        divergence.counters[:] = 0
    yield Moment(episode, step, total, False)
    while not done:
        step += 1
        try:
            action = policy.act_on(policy.theta, flat, policy.normalizer)
            observation, reward, terminated, truncated, _ = env.step(action)
            total += real_reward(reward)
            done = bool(terminated or truncated)
            flat = policy.flatten_observation(observation)
            # MuJoCo resets a diverged simulation without a word
            if divergence is not None and divergence.counters.any():
                total = math.nan
            if math.isfinite(total):
                check_finite(flat)
        except (Exception, SystemExit) as error:
            raise _fault(name, episode, seed, step, error) from error
        if not math.isfinite(total):
            raise NonFiniteLossError(f"evaluation on {name}", episode, "mean", step, -total)
        yield Moment(episode, step, total, done)


def _fault(
    name: str, episode: int, seed: int, step: int, error: BaseException
) -> EnvironmentFaultError:
    """Return the error that says where it happened; its details are the whole traceback."""
    where = f"in step {step}" if step else "in the reset"
    reason = " ".join(traceback.format_exception_only(error)[-1].split())
    return EnvironmentFaultError(
        name,
        Phase.STEPPING if step else Phase.RESETTING,
        -1,
        step,
        f"episode {episode} (seed {seed}), {where}: {reason}",
        "".join(traceback.format_exception(error)).rstrip(),
    )
