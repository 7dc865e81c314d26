"""The Lorenz system's loss surface: rugged on every scale, smooth when it is perturbed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl.envs.lorenz import LorenzTask
from reproductions.pictures import new_picture, tidy
from reproductions.registry import Figure, Seeds
from reproductions.report import Report
from reproductions.statistics import mean_estimate

__all__ = ["FIGURES", "losses", "smoothed_loss"]

SIGMA = 0.04
LOG_R, LOG_A = (2.9, 3.9), (1.7, 3.5)
ZOOM = 0.02  # half the width of the magnified square around θ₀


def losses(thetas: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean loss over T=2000 steps at each of `thetas` (n, 2), infinite if it is."""
    task = LorenzTask(n_threads=1)
    n, horizon = len(thetas), task.horizon
    assert horizon is not None
    task.allocate(n)
    rows = np.arange(n)
    task.reset(rows, np.zeros(n, np.uint64))
    result = task.unroll(rows, np.ascontiguousarray(thetas), np.full(n, horizon, np.int64))
    return np.where(np.isfinite(result.loss_sum), result.loss_sum / horizon, np.inf)


def smoothed_loss(theta: NDArray[np.float64], n_draws: int, seed: int = 0) -> float:
    """Return the mean loss under N(θ, σ²I): what an evolution strategy minimises.

    `n_draws` antithetic draws, the same for every θ: differences between two θ are more exact
    than either.
    """
    noise = SIGMA * np.random.default_rng(seed).standard_normal((n_draws // 2, 2))
    return float(losses(theta + np.concatenate([noise, -noise])).mean())


def grid(low: list[float], high: list[float], n: int) -> dict[str, NDArray[np.float64]]:
    """Return the losses on a grid of n × n points; first axis ln a, second ln r."""
    log_r, log_a = (np.linspace(a, b, n) for a, b in zip(low, high, strict=True))
    thetas = np.stack(np.meshgrid(log_r, log_a), axis=-1).reshape(-1, 2)
    return {"log_r": log_r, "log_a": log_a, "loss": losses(thetas).reshape(n, n)}


def smooth_grid(low: list[float], high: list[float], n: int, n_draws: int) -> dict[str, Any]:
    """Return the smoothed losses on a grid of n × n points."""
    log_r, log_a = (np.linspace(a, b, n) for a, b in zip(low, high, strict=True))
    loss = [[smoothed_loss(np.array([r, a]), n_draws) for r in log_r] for a in log_a]
    return {"log_r": log_r, "log_a": log_a, "loss": loss}


def points(n_draws: int, seed: int) -> dict[str, float]:
    """Return the smoothed losses at the true parameters and at θ₀."""
    task = LorenzTask()
    return {
        "true": smoothed_loss(task.true_theta, n_draws, seed),
        "start": smoothed_loss(task.initial_theta(), n_draws, seed),
    }


def make(report: Report) -> None:
    n, n_smooth = report.pick(16, 256, 512), report.pick(4, 32, 96)
    draws = report.pick(100, 1000, 8000)
    task = LorenzTask()
    start, true = task.initial_theta(), task.true_theta
    low, high = [LOG_R[0], LOG_A[0]], [LOG_R[1], LOG_A[1]]
    near = ((start - ZOOM).tolist(), (start + ZOOM).tolist())
    whole, zoom = report.compute(
        grid,
        [{"low": low, "high": high, "n": n}, {"low": near[0], "high": near[1], "n": n}],
    )
    (smooth,) = report.compute(
        smooth_grid, [{"low": low, "high": high, "n": n_smooth, "n_draws": draws}]
    )
    at = report.compute(points, [{"n_draws": 8 * draws, "seed": seed} for seed in report.seeds])

    picture, axes = new_picture(1, 3, width=4.4)
    peak = float(np.quantile(whole["loss"], 0.99))
    panels = [
        (whole, "loss"),
        (zoom, f"loss within {ZOOM} of θ₀, other colours"),
        (smooth, f"loss smoothed with σ={SIGMA}"),
    ]
    for place, (cell, title) in zip(axes[0], panels, strict=True):
        low_loss, high_loss = (0.0, peak) if cell is not zoom else _range(zoom["loss"])
        image = place.pcolormesh(
            cell["log_r"], cell["log_a"], cell["loss"], shading="nearest", cmap="viridis",
            vmin=low_loss, vmax=high_loss, rasterized=True,
        )  # fmt: skip
        tidy(place, x="ln r", y="ln a", title=title)
        place.grid(visible=False)
        place.plot(*start, "o", color="white", mec="black", ms=6, label="θ₀")
        if cell is not zoom:
            place.plot(*true, "*", color="#D55E00", mec="white", ms=11, label="true parameters")
        picture.colorbar(image, ax=place, label="mean loss per step" if cell is smooth else "")
    axes[0, 0].legend(loc="lower left", fontsize="small")
    report.save(picture, "lorenz-surface")
    for name, cell in (("surface", whole), ("zoom", zoom), ("smoothed", smooth)):
        report.write_csv(
            name,
            [
                {"log_r": r, "log_a": a, "loss": cell["loss"][i, j]}
                for i, a in enumerate(cell["log_a"])
                for j, r in enumerate(cell["log_r"])
            ],
        )

    exact = float(losses(start[None])[0])
    report.verdict(
        "L(θ₀) = 353.3 (figures checked for this project)", f"{exact:.3f}",
        agrees=abs(exact - 353.3) < 0.05, seeds=1,
    )  # fmt: skip
    estimate = mean_estimate([cell.number("true") for cell in at])
    report.verdict(
        f"the loss smoothed with σ={SIGMA} is 56.4 at the true parameters", estimate,
        agrees=abs(estimate.value - 56.4) < 1.0,
    )  # fmt: skip
    rough = _turns(zoom["loss"][n // 2])
    smooth_turns = _turns(smooth["loss"][n_smooth // 2])
    report.verdict(
        "the surface is rugged also close by; smoothing leaves a landscape that leads downhill "
        "(figure 5)",
        f"{rough} local minima in a row of the magnified square of {n} points, {smooth_turns} in "
        f"a row of the whole smoothed surface of {n_smooth}",
        agrees=rough > 10 and smooth_turns < 5, seeds=1,
    )  # fmt: skip


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return all but the outermost hundredths of `values`."""
    low, high = np.quantile(values, [0.01, 0.99])
    return float(low), float(high)


def _turns(values: NDArray[np.float64]) -> int:
    """Return the number of local minima of `values` (n,)."""
    change = np.diff(values)
    return int(np.sum((change[:-1] < 0) & (change[1:] > 0)))


FIGURES = (
    Figure(
        "lorenz-surface",
        "Lorenz: the loss surface, near by and smoothed (main paper, figure 5)",
        make,
        Seeds(2, 5, 10),
    ),
)
