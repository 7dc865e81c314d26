"""A learning-rate schedule tuned online: where PES, NRES and TES end, and the grid's optimum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from es_rl.envs.hyperparameter_tuning import HyperparameterTask
from es_rl.estimators import ESTIMATORS, Estimator
from es_rl.optimizers import Adam
from es_rl.trainer import Trainer
from reproductions.cells import Cell
from reproductions.pictures import COLOURS, legend_below, new_picture, plot_band, tidy
from reproductions.rate_tables import rate_table
from reproductions.registry import Figure, Seeds
from reproductions.report import Report
from reproductions.statistics import intervals, listed, mean_band, mean_estimate
from reproductions.training import follow, run_chosen, tune

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FIGURES", "episode_losses"]

OBJECTIVES = {"training-loss": "training loss", "validation-accuracy": "minus validation accuracy"}
METHODS = ("NRES", "PES", "TES")
SIGMA, LEARNING_RATE = 0.1, 1e-2  # the poster's
LOG_RATE, LOG_DECAY = (math.log(1e-3), 0.0), (-4.0, 4.5)  # of the grid
PROBLEMS: dict[str, dict[str, Any]] = {
    "quick": {"dataset": "digits", "hidden": [8], "batch_size": 8, "horizon": 100},
    "default": {"dataset": "digits", "hidden": [16], "batch_size": 8, "horizon": 1000},
    "full": {"dataset": "mnist", "hidden": [100, 100], "batch_size": 100, "horizon": 5000},
}
"""By size; that of `full` is the poster's, on the 5,000 images of MNIST that a package ships."""

_SEEDS = 1 << 40  # episodes from here on are for measuring


def make_task(problem: Mapping[str, Any], objective: str) -> HyperparameterTask:
    """Return the task, for one thread, with a schedule as long as its training."""
    return HyperparameterTask(
        problem["dataset"],
        objective=objective,
        hidden=tuple(problem["hidden"]),
        batch_size=problem["batch_size"],
        horizon=problem["horizon"],
        time_scale=problem["horizon"],
        n_threads=1,
    )


def episode_losses(
    task: HyperparameterTask, thetas: NDArray[np.float64], n_episodes: int, first_seed: int
) -> NDArray[np.float64]:
    """Return the mean losses of whole trainings at `thetas` (n, 2), (n, n_episodes).

    The same trainings for every θ, so that differences are more exact than either; infinite where
    a training diverged.
    """
    assert task.horizon is not None
    n = len(thetas) * n_episodes
    rows = np.arange(n)
    task.allocate(n)
    task.reset(
        rows, np.tile(np.arange(n_episodes, dtype=np.uint64) + np.uint64(first_seed), len(thetas))
    )
    steps = np.full(n, task.horizon, np.int64)
    result = task.unroll(rows, np.repeat(thetas, n_episodes, axis=0), steps)
    whole = (result.steps_taken == steps) & np.isfinite(result.loss_sum)
    losses = np.where(whole, result.loss_sum / task.horizon, math.inf)
    return losses.reshape(len(thetas), n_episodes)


def grid(
    *, problem: dict[str, Any], objective: str, log_rate: float, log_decays: list[float], n: int
) -> dict[str, NDArray[np.float64]]:
    """Return the mean losses of `n` trainings along one row of the grid."""
    thetas = np.array([(log_rate, log_decay) for log_decay in log_decays])
    return {"loss": episode_losses(make_task(problem, objective), thetas, n, _SEEDS).mean(axis=1)}


def measure(
    *, problem: dict[str, Any], objective: str, thetas: list[list[float]], n: int
) -> dict[str, NDArray[np.float64]]:
    """Return the mean losses at `thetas` of `n` trainings that no choice has seen."""
    task = make_task(problem, objective)
    return {"loss": episode_losses(task, np.array(thetas), n, 2 * _SEEDS).mean(axis=1)}


def train(
    *,
    problem: dict[str, Any],
    objective: str,
    method: str,
    n_pairs: int,
    unroll_length: int,
    learning_rate: float,
    seed: int,
    updates: int,
    every: int,
) -> dict[str, Any]:
    """Tune the schedule by one method with Adam; see `follow`.

    Returns:
        what `follow` returns, with "loss" the mean loss of whole trainings at θ; and "score", the
        mean of the last fifth of these losses.
    """
    task, measured = make_task(problem, objective), make_task(problem, objective)
    options: dict[str, Any] = {
        "n_pairs": n_pairs, "unroll_length": unroll_length, "sigma": SIGMA, "seed": seed,
    }  # fmt: skip
    estimator: Estimator = ESTIMATORS[method](task, **options)
    trainer = Trainer(estimator, Adam(2, learning_rate), task.initial_theta())

    def whole_trainings(theta: NDArray[np.float64]) -> dict[str, float]:
        return {"loss": float(episode_losses(measured, theta[None], 6, 3 * _SEEDS).mean())}

    course = follow(trainer, updates, every, whole_trainings)
    return {**course, "score": course["loss"][-max(1, course["loss"].size // 5) :].mean()}


def make(report: Report) -> None:
    found = {objective: _work(report, objective) for objective in OBJECTIVES}
    _draw(report, found)
    for objective, words in OBJECTIVES.items():
        _judge(report, found[objective], words)


def _work(report: Report, objective: str) -> dict[str, Any]:
    """Search the grid and train by every method at its own best rate."""
    problem = PROBLEMS[report.size]
    log_rates = np.linspace(*LOG_RATE, report.pick(4, 17, 13))
    log_decays = np.linspace(*LOG_DECAY, report.pick(4, 14, 12))
    n = report.pick(2, 12, 3)
    common = {"problem": problem, "objective": objective}
    rows = report.compute(
        grid,
        [
            {**common, "log_rate": float(a), "log_decays": log_decays.tolist(), "n": n}
            for a in log_rates
        ],
    )
    losses = np.array([row["loss"] for row in rows])
    methods = {
        method: {
            **common, "method": method.lower(), "n_pairs": report.pick(4, 20, 500),
            "unroll_length": 10, "learning_rate": LEARNING_RATE,
            "updates": report.pick(20, 1000, 1000), "every": report.pick(10, 50, 100),
        }
        for method in METHODS
    }  # fmt: skip
    chosen, tried = tune(
        report, train, methods, n_seeds=report.pick(1, 2, 1), reach=report.pick(0, 1, 1),
        most=report.pick(0, 4, 2),
    )  # fmt: skip
    runs = run_chosen(report, train, methods, chosen)
    name = objective.replace("-", "_")
    report.write_csv(f"tuning_{name}", tried)
    report.write_csv(f"rates_{name}", rate_table(tried), shown=True)
    report.write_csv(
        f"grid_{name}",
        [
            {"log_rate": a, "log_decay": b, "loss": losses[i, j]}
            for i, a in enumerate(log_rates)
            for j, b in enumerate(log_decays)
        ],
    )
    report.write_csv(
        f"runs_{name}",
        [
            {
                "method": method, "rate": cell.settings["learning_rate"],
                "seed": cell.settings["seed"], "update": int(cell["update"][i]),
                "log_rate": cell["theta"][i, 0], "log_decay": cell["theta"][i, 1],
                "loss": cell["loss"][i],
            }
            for method, own in runs.items()
            for cell in own
            for i in range(cell["update"].size)
        ],
    )  # fmt: skip
    optimum, ends = _measured_again(report, common, log_rates, log_decays, losses, runs)
    return {
        "log_rates": log_rates, "log_decays": log_decays, "losses": losses, "runs": runs,
        "optimum": optimum, "ends": ends,
    }  # fmt: skip


def _measured_again(
    report: Report,
    common: dict[str, Any],
    log_rates: NDArray[np.float64],
    log_decays: NDArray[np.float64],
    losses: NDArray[np.float64],
    runs: dict[str, list[Cell]],
) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    """Measure the grid's best points and the ends of the runs on trainings that none has seen.

    A grid's lowest loss is too low, as the luckiest of many: its best points compete again.
    """
    order = np.argsort(losses.ravel())[: report.pick(2, 8, 4)]
    best = np.array(
        [(log_rates[k // log_decays.size], log_decays[k % log_decays.size]) for k in order]
    )
    last = np.array([cell["theta"][-1] for own in runs.values() for cell in own])
    n = report.pick(2, 128, 16)
    cells = report.compute(
        measure, [{**common, "thetas": points.tolist(), "n": n} for points in (best, last)]
    )
    again, ends = (cell["loss"] for cell in cells)
    k = int(np.argmin(again))
    optimum = {"theta": best[k], "loss": float(again[k])}
    return optimum, {
        m: ends[i * report.n_seeds : (i + 1) * report.n_seeds] for i, m in enumerate(runs)
    }


def _draw(report: Report, found: Mapping[str, Mapping[str, Any]]) -> None:
    picture, axes = new_picture(2, 2, width=4.8)
    for (left, right), (objective, words) in zip(axes, OBJECTIVES.items(), strict=True):
        _draw_paths(picture, left, found[objective], words)
        _draw_courses(right, found[objective], words)
    caption = f"paths of seed 0, ends of all; mean and 95 % interval of {report.n_seeds} seeds"
    legend_below(picture, caption, columns=6)
    report.save(picture, "hyperparameter-tuning")


def _draw_paths(picture: Any, axes: Axes, found: Mapping[str, Any], words: str) -> None:
    from matplotlib.colors import PowerNorm

    losses = found["losses"]
    finite = losses[np.isfinite(losses)]
    norm = PowerNorm(0.4, float(finite.min()), float(np.quantile(finite, 0.75)))
    image = axes.pcolormesh(
        found["log_rates"], found["log_decays"], np.minimum(losses, finite.max()).T,
        shading="nearest", cmap="Greys", norm=norm, rasterized=True,
    )  # fmt: skip
    picture.colorbar(image, ax=axes, shrink=0.9)
    for method, cells in found["runs"].items():
        path = cells[0]["theta"]
        colour = COLOURS[method]
        axes.plot(path[:, 0], path[:, 1], color=colour, lw=1.3, label=method)
        ends = np.array([cell["theta"][-1] for cell in cells])
        axes.plot(ends[:, 0], ends[:, 1], "o", color=colour, mec="white", ms=6)
    start = found["runs"]["NRES"][0]["theta"][0]
    axes.plot(*start, "s", color="black", mec="white", ms=7, ls="none", label="start")
    axes.plot(
        *found["optimum"]["theta"], "*", color="#F0E442", mec="black", ms=13, ls="none",
        label="grid's optimum",
    )  # fmt: skip
    axes.set(xlim=LOG_RATE, ylim=LOG_DECAY)
    tidy(axes, x="θ₀, logarithm of the first rate", y="θ₁, how fast it falls", title=words)


def _draw_courses(axes: Axes, found: Mapping[str, Any], words: str) -> None:
    for method, cells in found["runs"].items():
        plot_band(axes, cells[0]["update"], mean_band([c["loss"] for c in cells]), method)
    axes.axhline(
        found["optimum"]["loss"], color="0.3", ls=":", lw=1.2, label="loss at the grid's optimum"
    )
    tidy(axes, x="updates", y=words)


def _judge(report: Report, found: Mapping[str, Any], words: str) -> None:
    optimum, ends = found["optimum"], found["ends"]
    gaps = {m: mean_estimate((values - optimum["loss"]).tolist()) for m, values in ends.items()}
    worst = max(float(np.max(ends[method])) for method in ("NRES", "PES"))
    report.verdict(
        f"{words}: PES and NRES end nearer the grid-searched optimum than TES (poster), by the "
        f"loss above the optimum's, {optimum['loss']:.4f}",
        listed(gaps), interval=intervals(gaps),
        agrees=worst < float(np.min(ends["TES"])),
    )  # fmt: skip
    away = {
        m: mean_estimate(_distances(cells, optimum["theta"])) for m, cells in found["runs"].items()
    }
    report.verdict(
        f"{words}: the same by the distance of θ from the optimum, "
        f"({optimum['theta'][0]:.2f}, {optimum['theta'][1]:.2f})",
        listed(away), interval=intervals(away),
        agrees=max(away["NRES"].value, away["PES"].value) < away["TES"].value,
    )  # fmt: skip
    last = {m: np.array([c["theta"][-1] for c in cells]) for m, cells in found["runs"].items()}
    rates = {m: mean_estimate(_mean_log_rates(thetas).tolist()) for m, thetas in last.items()}
    best = float(_mean_log_rates(optimum["theta"][None])[0])
    report.verdict(
        f"{words}: truncated ES is biased towards too small rates (poster); logarithm of the rate, "
        f"mean over the training, {best:.2f} at the optimum",
        listed(rates), interval=intervals(rates), agrees=rates["TES"].high < best,
    )  # fmt: skip


def _distances(cells: Sequence[Cell], theta: NDArray[np.float64]) -> list[float]:
    return [float(np.linalg.norm(cell["theta"][-1] - theta)) for cell in cells]


def _mean_log_rates(thetas: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over a training of ln lr_t = θ₀ - e^θ₁·ln(1 + t/T), (n,)."""
    mean_log = 2.0 * math.log(2.0) - 1.0  # the mean of ln(1 + u) for u from 0 to 1
    rates: NDArray[np.float64] = thetas[:, 0] - np.exp(thetas[:, 1]) * mean_log
    return rates


FIGURES = (
    Figure(
        "hyperparameter-tuning",
        "tuning a learning-rate schedule on loss and on accuracy (poster)",
        make,
        Seeds(2, 5, 5),
    ),
)
