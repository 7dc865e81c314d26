"""The poster's own control run: Swimmer with ten pairs in lockstep, PES, whole episodes and TES."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl.estimators import ESTIMATORS, Estimator
from es_rl.evaluation import evaluate_on_task
from es_rl.optimizers import SGD
from es_rl.policies import LinearPolicy
from es_rl.trainer import Trainer
from reproductions.cells import Cell
from reproductions.pictures import legend_below, new_picture, plot_band, tidy
from reproductions.rate_tables import rate_table
from reproductions.registry import Figure, Seeds
from reproductions.report import Report
from reproductions.statistics import intervals, listed, mean_band, mean_estimate, median_estimate
from reproductions.training import follow, run_chosen, tune

__all__ = ["FIGURES"]

ENV, HORIZON = "Swimmer-v4", 1000
N_PAIRS, WINDOW = 10, 100
REACHED = 325.0  # the ARS paper's threshold
EVALUATION_SEED = 1 << 40

# σ and the rate around which rates are tried; the rates are the poster's, NRES has those of PES
METHODS = {"PES": (0.3, 0.1), "FullES": (0.3, 0.3), "TES": (0.1, 0.1), "NRES": (0.3, 0.1)}


def train(
    *, method: str, sigma: float, learning_rate: float, seed: int, updates: int, every: int,
    episodes: int,
) -> dict[str, Any]:  # fmt: skip
    """Train a linear policy from zero by SGD; see `follow`.

    Differences are divided by the root of their mean square over the window's pairs, and the
    directions have unit variance, so rates are in units of θ.

    Returns:
        what `follow` returns, with "reward", the mean of some `episodes`; and "score", minus the
        mean of the rewards over the whole run, so that both speed and end count.
    """
    from es_rl.envs import make_env, make_task

    env = make_env(ENV)
    policy = LinearPolicy(env.observation_space, env.action_space)
    env.close()
    options: dict[str, Any] = {"n_pairs": N_PAIRS, "sigma": sigma, "horizon": HORIZON, "seed": seed}
    if method != "fulles":
        options |= {"unroll_length": WINDOW, "staggering": "lockstep"}
    with (
        make_task(ENV, policy, n_threads=1) as task,
        make_task(ENV, policy, n_threads=1) as measured,
    ):
        estimator: Estimator = ESTIMATORS[method](task, shaping="std", **options)
        trainer = Trainer(estimator, SGD(policy.num_params, learning_rate), np.zeros(16))

        def measure(theta: NDArray[np.float64]) -> dict[str, float]:
            found = evaluate_on_task(measured, theta, n_episodes=episodes, seed=EVALUATION_SEED)
            return {"reward": float(found.mean)}

        course = follow(trainer, updates, every, measure)
    # a run that diverged is infinite in everything measured: the worst reward here, not the best
    rewards = np.where(np.isfinite(course["reward"]), course["reward"], -np.inf)
    return {**course, "reward": rewards, "score": -rewards.mean()}


def _methods(report: Report) -> dict[str, dict[str, Any]]:
    """Return the settings of each method; all spend the same environment steps."""
    budget, points = report.pick(20_000, 300_000, 2_000_000), report.pick(2, 15, 50)
    methods = {}
    for name, (sigma, rate) in METHODS.items():
        rows = N_PAIRS * {"TES": 3}.get(name, 2)
        steps = rows * (HORIZON if name == "FullES" else WINDOW)
        every = max(1, round(budget / steps / points))
        methods[name] = {
            "method": name.lower(), "sigma": sigma, "learning_rate": rate, "every": every,
            "episodes": report.pick(1, 2, 20),
            "updates": max(1, round(budget / steps / every)) * every,
        }  # fmt: skip
    return methods


def make(report: Report) -> None:
    methods = _methods(report)
    chosen, tried = tune(
        report, train, methods, n_seeds=report.pick(1, 2, 3), reach=report.pick(0, 1, 2),
        most=report.pick(0, 4, 4),
    )  # fmt: skip
    report.write_csv("tuning", tried)
    report.write_csv("rates", rate_table(tried), shown=True)
    runs = run_chosen(report, train, methods, chosen)
    report.write_csv(
        "runs",
        [
            {
                "method": name, "rate": cell.settings["learning_rate"],
                "seed": cell.settings["seed"], "update": int(cell["update"][i]),
                "sequential_steps": int(cell["sequential_steps"][i]),
                "total_steps": int(cell["total_steps"][i]), "reward": cell["reward"][i],
            }
            for name, own in runs.items()
            for cell in own
            for i in range(cell["update"].size)
        ],
    )  # fmt: skip
    _draw(report, runs)
    _judge(report, runs)


def _draw(report: Report, runs: Mapping[str, list[Cell]]) -> None:
    picture, axes = new_picture(1, 2)
    for place, x, label in zip(
        axes[0],
        ("total_steps", "sequential_steps"),
        ("total environment steps", "sequential environment steps"),
        strict=True,
    ):
        for name, cells in runs.items():
            plot_band(place, cells[0][x], mean_band([c["reward"] for c in cells]), name)
        place.axhline(REACHED, color="0.3", ls=":", lw=1.2)
        place.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
        tidy(place, x=label, y="reward of the mean policy")
    legend_below(picture, f"mean and 95 % interval of {report.n_seeds} seeds")
    report.save(picture, "poster-control")


def _judge(report: Report, runs: Mapping[str, list[Cell]]) -> None:
    needed = {
        name: median_estimate([_reached(cell, "total_steps") for cell in cells])
        for name, cells in runs.items()
    }
    two = {name: needed[name] for name in ("PES", "FullES")}
    report.verdict(
        f"PES is more efficient than ES on full episodes (poster): total steps until a reward of "
        f"{REACHED:.0f}, median and range over seeds (inf: never)",
        listed(two), interval=intervals(two),
        agrees=needed["PES"].value < needed["FullES"].value,
    )  # fmt: skip
    last = {name: mean_estimate([_last(cell) for cell in cells]) for name, cells in runs.items()}
    report.verdict(
        "truncated ES fails (poster): reward of the last tenth",
        listed(last), interval=intervals(last),
        agrees=last["TES"].high < min(last["PES"].low, REACHED),
    )  # fmt: skip
    report.verdict(
        f"NRES, which the poster did not have, with the same settings: total steps until a reward "
        f"of {REACHED:.0f}, median and range over seeds (inf: never)",
        needed["NRES"].text(), interval=needed["NRES"].interval(), agrees=None,
    )  # fmt: skip


def _last(cell: Cell) -> float:
    rewards = cell["reward"]
    return float(rewards[-max(1, rewards.size // 10) :].mean())


def _reached(cell: Cell, x: str) -> float:
    """Return the first `x` at which the reward was `REACHED` or more, infinite if it never was."""
    good = np.flatnonzero(cell["reward"] >= REACHED)
    return float(cell[x][good[0]]) if good.size else float("inf")


FIGURES = (
    Figure(
        "poster-control",
        "Swimmer with ten pairs in lockstep: PES, whole episodes, truncated ES (poster)",
        make,
        Seeds(1, 5, 10),
    ),
)
