"""One training run of the control benchmark: ours or a peer's, judged alike, as plain figures."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
from stopwatch import Stopwatch

from es_rl.assembly import assemble
from es_rl.checkpoint import load_checkpoint, save_checkpoint
from es_rl.config_layers import resolve
from es_rl.envs.making import make_env
from es_rl.evaluation import evaluate_on_task
from es_rl.trainer import Trainer

__all__ = ["PEERS", "Judgement", "OtherRunError", "Run", "run_ours", "run_peer"]

EPISODES = 10
EVALUATION_SEED = 20_000
PEERS = {"sb3-ars": "ars", "sb3-ppo": "ppo", "sb3-sac": "sac"}
"""Names of the peers in results, and their entries in control_tasks.yaml."""

_FREE_OPTIONS = ("threads", "total_steps")
"""What may differ where an interrupted run goes on: its figures do not depend on it."""

_ALGORITHM_ONLY = ("normalize", "n_envs", "default", "log_std_init", "ortho_init", "activation",
                   "net_arch")  # fmt: skip


class Judgement(NamedTuple):
    """What was seen at one moment of a run.

    Attributes:
        total_steps: environment steps in training so far.
        sequential_steps: those that had to happen one after another.
        seconds: of training so far, evaluations left out.
        reward: mean of `EPISODES` episodes of the deterministic policy.
    """

    total_steps: int
    sequential_steps: int
    seconds: float
    reward: float


class Run:
    """Keeps the judgements of a run, at equal distances in total steps.

    Args:
        budget: total steps.
        n_judgements: how many, the last at the end of the budget.
    """

    def __init__(self, budget: int, n_judgements: int) -> None:
        self.watch = Stopwatch()
        self.judgements: list[Judgement] = []
        self._budget, self._n = budget, n_judgements

    def is_due(self, total_steps: int) -> bool:
        """Return whether another share of the budget has been used up."""
        return total_steps * self._n >= self._budget * self._next_share

    @property
    def _next_share(self) -> int:
        if not self.judgements:
            return 1
        return self.judgements[-1].total_steps * self._n // self._budget + 1

    def add(self, total_steps: int, sequential_steps: int, reward: float) -> None:
        """Record what was seen; the watch must stand still."""
        seconds = round(self.watch.elapsed, 3)
        self.judgements.append(Judgement(total_steps, sequential_steps, seconds, reward))

    def as_dict(self) -> dict[str, list[float]]:
        """Return the judgements by column."""
        columns = zip(*self.judgements, strict=True) if self.judgements else [[]] * 4
        return {name: list(column) for name, column in zip(Judgement._fields, columns, strict=True)}


class OtherRunError(ValueError):
    """What an interrupted run left behind does not fit the run that is to go on from it."""


def run_ours(
    env_id: str, options: Mapping[str, Any], seed: int, budget: int, n_judgements: int,
    kept: Path | None = None,
) -> Run:  # fmt: skip
    """Train as `es-rl train ENV --algo ...` does with these options.

    Args:
        env_id: environment.
        options: `algo`, `threads`, `preset` (a name, optional) and any other options of a run.
        seed: of the run.
        budget: total steps.
        n_judgements: evaluations, the last at the end.
        kept: file (.npz) that holds the run at its last judgement until it is over. If it is there,
            the run goes on from it, to the same figures.

    Raises:
        OtherRunError: if `kept` is of a run with other settings or other distances of judgements.
    """
    given = {**options, "env": env_id, "seed": seed, "total_steps": budget}
    preset = given.pop("preset", None)
    config = resolve(given, preset=preset).config
    with assemble(config) as made:
        trainer = made.trainer
        # compile and load everything, so that the clock sees a warm cache
        evaluate_on_task(made.eval_task, trainer.theta, n_episodes=1)
        run = Run(budget, n_judgements)
        about = {
            "config": {k: v for k, v in config.to_dict().items() if k not in _FREE_OPTIONS},
            "distance": budget / n_judgements,
        }
        if kept is not None and kept.exists():
            _go_on(kept, about, trainer, run)
        trainer.start()
        run.watch.go()
        is_over = False
        while not is_over:
            trainer.update()
            is_over = trainer.total_steps >= budget
            if is_over or run.is_due(trainer.total_steps):
                run.watch.pause()
                reward = evaluate_on_task(
                    made.eval_task, trainer.theta, n_episodes=EPISODES, seed=EVALUATION_SEED,
                    normalizer=trainer.estimator.normalizer,
                ).mean  # fmt: skip
                run.add(trainer.total_steps, trainer.sequential_steps, reward)
                if kept is not None:
                    save_checkpoint(kept, trainer, {**about, "judgements": run.judgements})
                run.watch.go()
    if kept is not None:
        kept.unlink()
    return run


def _go_on(kept: Path, about: Mapping[str, Any], trainer: Trainer, run: Run) -> None:
    extra, state = load_checkpoint(kept)
    if any(json.dumps(extra.get(name)) != json.dumps(value) for name, value in about.items()):
        raise OtherRunError(
            f"{kept}: is of a run with other settings or evaluations at other distances; go on "
            "with those, or remove it"
        )
    trainer.load_state_dict(state)
    run.judgements[:] = [Judgement(*row) for row in extra["judgements"]]
    run.watch.elapsed = run.judgements[-1].seconds


class _OutOfBudget(Exception):
    """Ends a run from inside a callback: sb3-contrib's ARS goes on when one returns False."""


def run_peer(
    kind: str, env_id: str, settings: Mapping[str, Any], seed: int, budget: int, n_judgements: int
) -> Run:
    """Train one of `PEERS` with RL Zoo's settings.

    Its sequential steps are calls of `step` on its vector environment: its copies go side by side.
    """
    from sb3_contrib import ARS
    from stable_baselines3 import PPO, SAC
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import (
        DummyVecEnv,
        VecEnv,
        VecNormalize,
        sync_envs_normalization,
    )

    warnings.simplefilter("ignore")
    normalize = bool(settings.get("normalize"))

    def make(n: int) -> VecEnv:
        copies = DummyVecEnv([lambda: gym.wrappers.RecordEpisodeStatistics(make_env(env_id))] * n)
        if not normalize:
            return copies
        return VecNormalize(copies, norm_reward=kind != "ars")

    train, judge = make(int(settings.get("n_envs", 1))), make(EPISODES)
    if isinstance(judge, VecNormalize):
        judge.training = judge.norm_reward = False
    run = Run(budget, n_judgements)

    class Judge(BaseCallback):
        def _on_step(self) -> bool:
            if run.is_due(self.num_timesteps):
                run.watch.pause()
                if normalize:
                    sync_envs_normalization(train, judge)
                judge.seed(EVALUATION_SEED)
                reward, _ = evaluate_policy(self.model, judge, EPISODES, warn=False)
                run.add(self.num_timesteps, self.n_calls, float(reward))
                run.watch.go()
            if self.num_timesteps >= budget:
                raise _OutOfBudget
            return True

    own = {name: value for name, value in settings.items() if name not in _ALGORITHM_ONLY}
    classes: dict[str, type[BaseAlgorithm]] = {"ars": ARS, "ppo": PPO, "sac": SAC}
    network = "LinearPolicy" if kind == "ars" else "MlpPolicy"
    options = {"policy_kwargs": _network(settings)} if kind == "ppo" else {}
    model = classes[kind](network, train, seed=seed, device="cpu", **own, **options)
    run.watch.go()
    try:
        model.learn(budget, callback=Judge())
    except _OutOfBudget:
        pass
    finally:
        train.close()
        judge.close()
    return run


def _network(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return SB3's `policy_kwargs`."""
    from torch import nn

    found: dict[str, Any] = {}
    for name in ("log_std_init", "ortho_init"):
        if name in settings:
            found[name] = settings[name]
    if "activation" in settings:
        found["activation_fn"] = {"relu": nn.ReLU, "tanh": nn.Tanh}[settings["activation"]]
    if "net_arch" in settings:
        widths = list(settings["net_arch"])
        found["net_arch"] = {"pi": widths, "vf": widths}
    return found
