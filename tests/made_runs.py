"""Folders of runs with any curve, made without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from es_rl.config_layers import dump_config, resolve
from es_rl.progress import ProgressFile, Row


def make_run(
    path: Path,
    rewards: Sequence[float],
    totals: Sequence[int],
    *,
    algo: str = "nres",
    seed: int = 0,
    env: str = "Swimmer-v4",
    **settings: Any,
) -> str:
    """Write a run that was evaluated after each of `totals` steps; sequential steps are a tenth.

    Between two evaluations there is an update without one.
    """
    if algo != "fulles":
        settings.setdefault("unroll_length", 100)
    given = {"env": env, "algo": algo, "seed": seed, "horizon": 1000, **settings}
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(dump_config(resolve(given).config, {"num_params": 16}))
    rows = []
    for reward, total in zip(rewards, totals, strict=True):
        for is_evaluated in (False, True):
            steps = total if is_evaluated else total - 1
            rows.append(
                Row(
                    update=len(rows) + 1, sequential_steps=steps // 10, total_steps=steps,
                    evaluation_steps=0, wall_time=steps / 1000, mean_loss=0.0, gradient_norm=1.0,
                    episodes=0, eval_reward_mean=reward if is_evaluated else None,
                    eval_reward_std=0.0 if is_evaluated else None,
                )
            )  # fmt: skip
    ProgressFile(str(path / "progress.csv"), rows).close()
    return str(path)
