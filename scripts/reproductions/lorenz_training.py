"""The Lorenz system learned by all methods: trajectories by noise period, and convergence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl import GPES, NRES, PES, SGD, TES, FullES, Trainer
from es_rl.baselines import BPTT, DODGE, RTRL, TBPTT, UORO
from es_rl.envs.lorenz import LorenzTask
from es_rl.estimators import Estimator
from es_rl.schedules import piecewise
from reproductions.cells import Cell
from reproductions.lorenz_surface import SIGMA, losses, smoothed_loss
from reproductions.pictures import COLOURS, legend_below, new_picture, plot_band, tidy
from reproductions.registry import Figure, Seeds
from reproductions.report import Report
from reproductions.statistics import mean_band, mean_estimate, median_estimate
from reproductions.training import follow, tune

__all__ = ["FIGURES"]

W, T, N = 100, 2000, 200
REACHED = 55.0  # smoothed loss; 56.4 at the true parameters, about 49.7 at its own optimum
PUBLISHED = {
    "NRES": 1e-5, "PES": 1e-5, "PES, decayed": 1e-5, "TES": 3e-4, "FullES": 3e-5,
    "TBPTT": 3e-4, "BPTT": 1e-8, "RTRL": 1e-8, "UORO": 1e-13, "DODGE": 1e-10,
}  # fmt: skip
"""SGD's rates of the released code; RTRL is not in it and starts from BPTT's."""
EVOLUTION = ("NRES", "PES", "PES, decayed", "TES", "FullES")
DETERMINISTIC = ("TBPTT", "BPTT", "RTRL")
DECAY_AT = 1000
PERIODS = [100, 200, 500, 1000, 2000]


def _estimator(method: str, task: LorenzTask, n_pairs: int, period: int, seed: int) -> Estimator:
    shared: dict[str, Any] = {"n_pairs": n_pairs, "sigma": SIGMA, "seed": seed}
    window = {"unroll_length": W}
    match method:
        case "NRES":
            return NRES(task, **shared, **window)
        case "PES" | "PES, decayed":
            return PES(task, **shared, **window)
        case "GPES":
            return GPES(task, noise_period=period, **shared, **window)
        case "TES":
            return TES(task, **shared, **window)
        case "FullES":
            return FullES(task, **{**shared, "n_pairs": max(1, n_pairs * W // T)})
        case "UORO" | "DODGE":
            kind = UORO if method == "UORO" else DODGE
            return kind(task, n_workers=n_pairs, seed=seed, **window)
        case "TBPTT" | "RTRL":
            # nothing is random: workers in the same window do the same, so one in each is enough
            kind = TBPTT if method == "TBPTT" else RTRL
            return kind(task, n_workers=T // W, seed=seed, **window)
        case "BPTT":
            return BPTT(task, n_workers=1, seed=seed)
    raise ValueError(method)


def train(
    method: str, learning_rate: float, updates: int, every: int, draws: int, seed: int,
    n_pairs: int = N, noise_period: int = T,
) -> dict[str, Any]:  # fmt: skip
    """Train from θ₀ and follow θ, its loss and its smoothed loss."""
    task = LorenzTask(n_threads=1)
    estimator = _estimator(method, task, n_pairs, noise_period, seed)
    decayed = piecewise(learning_rate, {DECAY_AT: 0.1})
    rate = decayed if method == "PES, decayed" else learning_rate
    trainer = Trainer(estimator, SGD(2, rate), task.initial_theta())

    def measure(theta: NDArray[np.float64]) -> dict[str, float]:
        return {"loss": float(losses(theta[None])[0]), "smoothed": smoothed_loss(theta, draws)}

    found = follow(trainer, updates, every, measure)
    return {**found, "score": float(np.mean(found["smoothed"]))}


def path(noise_period: int, learning_rate: float, updates: int, seed: int) -> dict[str, Any]:
    """Return θ after every update of GPES with this noise period."""
    task = LorenzTask(n_threads=1)
    estimator = _estimator("GPES", task, N, noise_period, seed)
    trainer = Trainer(estimator, SGD(2, learning_rate), task.initial_theta())
    return follow(trainer, updates, 1, lambda theta: {})


def make_trajectories(report: Report) -> None:
    updates = report.pick(40, 1200, 1200)
    periods: list[int] = report.pick([100, 2000], PERIODS, PERIODS)
    rate = PUBLISHED["NRES"]
    cases = [
        {"noise_period": k, "learning_rate": rate, "updates": updates, "seed": seed}
        for k in periods
        for seed in report.seeds
    ]
    found = report.compute(path, cases)
    by_period = {k: [cell for cell in found if cell.settings["noise_period"] == k] for k in periods}
    roughness = {k: [_roughness(cell["theta"]) for cell in some] for k, some in by_period.items()}
    _draw_trajectories(report, by_period)
    report.write_csv(
        "trajectories",
        [
            {"noise_period": k, "seed": cell.settings["seed"], "update": i, "log_r": r, "log_a": a}
            for k, some in by_period.items()
            for cell in some
            for i, (r, a) in enumerate(cell["theta"])
        ],
    )
    report.write_csv(
        "roughness",
        [
            {"noise_period": k, "seed": seed, "roughness": value}
            for k, values in roughness.items()
            for seed, value in zip(report.seeds, values, strict=True)
        ],
    )
    means = [float(np.mean(roughness[k])) for k in periods]
    report.verdict(
        "at one learning rate NRES's trajectory oscillates least, PES's most (figure 5a)",
        "mean change of a step, in 1e-3: "
        + ", ".join(f"{1e3 * m:.3g} with K={k}" for k, m in zip(periods, means, strict=True)),
        agrees=means[-1] == min(means) and means[0] == max(means),
    )  # fmt: skip
    ratio = mean_estimate(
        [a / b for a, b in zip(roughness[periods[0]], roughness[periods[-1]], strict=True)]
    )
    report.verdict("how many times as rough as NRES's PES's trajectory is (not said)", ratio,
                   agrees=None)  # fmt: skip


def _roughness(theta: NDArray[np.float64]) -> float:
    """Return the root mean square change from one step of θ (n, 2) to the next."""
    steps = np.diff(theta, axis=0)
    return float(np.sqrt(np.mean(np.sum(np.diff(steps, axis=0) ** 2, axis=1))))


def _draw_trajectories(report: Report, by_period: Mapping[int, Sequence[Cell]]) -> None:
    picture, axes = new_picture(1, len(by_period), width=3.0, height=3.2)
    task = LorenzTask()
    start, true = task.initial_theta(), task.true_theta
    for place, (k, some) in zip(axes[0], by_period.items(), strict=True):
        for cell, shade in zip(some, np.linspace(0.0, 0.7, len(some)), strict=True):
            place.plot(*cell["theta"].T, lw=0.7, color=str(shade))
        place.plot(*start, "o", color="#0072B2", ms=5, label="θ₀")
        place.plot(*true, "*", color="#D55E00", ms=10, label="true parameters")
        name = {W: " (PES)", T: " (NRES)"}.get(k, "")
        tidy(place, x="ln r", y="ln a" if k == min(by_period) else "", title=f"K={k}{name}")
        place.sharex(axes[0, 0])
        place.sharey(axes[0, 0])
    some = next(iter(by_period.values()))
    legend_below(picture, f"{len(some[0]['theta']) - 1} updates, {len(some)} seeds in greys")
    report.save(picture, "lorenz-trajectories")


def make_convergence(report: Report) -> None:
    updates, every = report.pick(4, 2000, 20_000), report.pick(2, 40, 100)
    draws = report.pick(50, 2000, 8000)
    # their updates take 13 to 250 times as long to compute as those of NRES
    lengths = report.pick(
        {"UORO": 2, "BPTT": 2},
        {"TBPTT": 1000, "RTRL": 1000, "DODGE": 1000, "UORO": 200, "BPTT": 120},
        {"BPTT": 2000},
    )

    def settings(method: str, rate: float, n_draws: int) -> dict[str, Any]:
        length = lengths.get(method, updates)
        return {"method": method, "learning_rate": rate, "updates": length, "every": every,
                "draws": n_draws}  # fmt: skip

    rates, grid = tune(
        report, train, {m: settings(m, PUBLISHED[m], min(draws, 1000)) for m in PUBLISHED},
        n_seeds=report.pick(1, 2, 5), deterministic=DETERMINISTIC,
        reach=report.pick(0, 2, 2), most=report.pick(0, 4, 4),
    )  # fmt: skip
    report.write_csv("tuning", grid)
    runs: dict[str, dict[str, list[Cell]]] = {"tuned": {}, "published": {}}
    cases = [
        (name, m, {**settings(m, chosen[m], draws), "seed": seed})
        for name, chosen in (("tuned", rates), ("published", PUBLISHED))
        for m in PUBLISHED
        for seed in (report.seeds[:1] if m in DETERMINISTIC else report.seeds)
    ]
    found = report.compute(train, [case for _, _, case in cases])
    for (name, method, _), cell in zip(cases, found, strict=True):
        runs[name].setdefault(method, []).append(cell)
    many = report.pick(400, 20_000, 20_000)
    shorter = {"n_pairs": many, "seed": 0, "updates": report.pick(4, 1200, 4000)}
    ends = [{**settings(m, rates[m], draws), **shorter} for m in ("NRES", "PES")]
    limits = dict(zip(("NRES", "PES"), report.compute(train, ends), strict=True))
    _draw_convergence(report, runs, limits)
    _write_convergence(report, runs)
    _judge_convergence(report, runs, limits)


def _reached(cell: Cell, column: str) -> float:
    """Return where the smoothed loss is first at REACHED or below, infinite if it never is."""
    there = np.flatnonzero(cell["smoothed"] <= REACHED)
    return float(cell[column][there[0]]) if there.size else np.inf


def _end(cell: Cell) -> float:
    """Return the mean smoothed loss of the last tenth of the run."""
    values = cell["smoothed"]
    return float(values[-max(1, values.size // 10) :].mean())


def _draw_convergence(
    report: Report, runs: Mapping[str, Mapping[str, Sequence[Cell]]], limits: Mapping[str, Cell]
) -> None:
    picture, axes = new_picture(2, 2, width=5.0, height=3.3)
    columns = (("update", "updates"), ("sequential_steps", "sequential steps"))
    for row, (name, some) in enumerate(runs.items()):
        for column, (x, label) in enumerate(columns):
            place = axes[row, column]
            for method, cells in some.items():
                band = mean_band([cell["smoothed"] for cell in cells])
                points = cells[0][x].astype(float)
                if method == "PES, decayed":
                    place.plot(points, band.mean, "-.", color="#8B3A00", lw=1.6, label=method)
                else:
                    plot_band(place, points, band, method)
            tidy(place, x=label, y="smoothed loss", title=f"{name} learning rates")
            place.axhline(REACHED, color="0.4", lw=0.9, ls=(0, (4, 3)))
            place.set_yscale("log")
            place.set_ylim(45, 600)
            place.set_yticks([50, 100, 200, 400], labels=["50", "100", "200", "400"])
            place.minorticks_off()
            place.set_xlim(0, some["NRES"][0][x][-1])
    for method, cell in limits.items():
        label = f"{method}, N={cell.settings['n_pairs']:,}"
        for column, (x, _) in enumerate(columns):
            axes[0, column].plot(cell[x], cell["smoothed"], ":", lw=1.8, color=COLOURS[method],
                                 label=label)  # fmt: skip
    legend_below(
        picture, f"mean of {report.n_seeds} seeds, 95 % interval; dashed line: {REACHED:g}",
        columns=6,
    )  # fmt: skip
    report.save(picture, "lorenz-convergence")


def _write_convergence(report: Report, runs: Mapping[str, Mapping[str, Sequence[Cell]]]) -> None:
    report.write_csv(
        "curves",
        [
            {"rates": name, "method": method, "learning_rate": cell.settings["learning_rate"],
             "seed": cell.settings["seed"], "update": cell["update"][i],
             "sequential_steps": cell["sequential_steps"][i],
             "total_steps": cell["total_steps"][i], "log_r": cell["theta"][i, 0],
             "log_a": cell["theta"][i, 1], "loss": cell["loss"][i],
             "smoothed_loss": cell["smoothed"][i]}
            for name, some in runs.items()
            for method, cells in some.items()
            for cell in cells
            for i in range(cell["update"].size)
        ],
    )  # fmt: skip
    report.write_csv(
        "summary",
        [
            {"rates": name, "method": method,
             "learning_rate": cells[0].settings["learning_rate"],
             "final smoothed loss": mean_estimate([_end(c) for c in cells]).value,
             f"updates to {REACHED:g}": _median(cells, "update"),
             f"sequential steps to {REACHED:g}": _median(cells, "sequential_steps"),
             f"total steps to {REACHED:g}": _median(cells, "total_steps"),
             "diverged": sum(bool(c["diverged"]) for c in cells), "seeds": len(cells)}
            for name, some in runs.items()
            for method, cells in some.items()
        ],
        shown=True,
    )  # fmt: skip


def _median(cells: Sequence[Cell], column: str) -> float:
    return median_estimate([_reached(cell, column) for cell in cells]).value


def _judge_convergence(
    report: Report, runs: Mapping[str, Mapping[str, Sequence[Cell]]], limits: Mapping[str, Cell]
) -> None:
    published, tuned = runs["published"], runs["tuned"]
    at = [float(c["smoothed"][np.flatnonzero(c["update"] <= 1200)[-1]]) for c in published["NRES"]]
    report.verdict(
        f"NRES's smoothed loss is below {REACHED:g} by update 1200, published rate (worst seed)",
        f"{max(at):.1f}", interval=f"all seeds: {min(at):.1f} to {max(at):.1f}",
        agrees=max(at) < REACHED,
    )  # fmt: skip
    ends = {m: mean_estimate([_end(c) for c in cells]) for m, cells in tuned.items()}
    steps = {m: _median(tuned[m], "sequential_steps") for m in EVOLUTION}
    report.verdict(
        f"NRES converges fastest of the evolution strategies, tuned rates: sequential steps to "
        f"{REACHED:g} (medians, figure 5b)",
        _listed(steps), agrees=steps["NRES"] == min(steps.values()) < math.inf,
    )  # fmt: skip
    updates = {m: _median(tuned[m], "update") for m in ("NRES", "PES", "PES, decayed")}
    report.verdict(
        f"PES converges more slowly than NRES at its own tuned rate: updates to {REACHED:g} "
        "(medians)",
        _listed(updates), agrees=updates["NRES"] < min(updates["PES"], updates["PES, decayed"]),
    )  # fmt: skip
    report.verdict(
        f"TES is biased: it ends above NRES's {ends['NRES'].value:.1f}, tuned rates", ends["TES"],
        agrees=ends["TES"].low > ends["NRES"].high,
    )  # fmt: skip
    others = {m: e.value for m, e in ends.items() if m not in EVOLUTION}
    worst = max(ends[m].value for m in EVOLUTION)
    report.verdict(
        "all methods that differentiate end above all evolution strategies, tuned rates (figure 9)",
        f"{_listed(others, '.1f')}; the worst evolution strategy {worst:.1f}",
        agrees=min(others.values()) > worst,
    )  # fmt: skip
    for method, near in (("NRES", True), ("PES", False)):
        limit, gap = _end(limits[method]), 0.05
        n = limits[method].settings["n_pairs"]
        is_near = ends[method].value < (1 + gap) * limit
        report.verdict(
            f"{method} with N={N} ends {'near' if near else 'far from'} where N={n:,} ends, "
            f"{limit:.1f} (within {100 * gap:.0f} %)",
            ends[method], agrees=is_near == near,
        )  # fmt: skip


def _listed(values: Mapping[str, float], form: str = ",.0f") -> str:
    return ", ".join(
        f"{name.replace(', ', ' ')} {format(v, form) if math.isfinite(v) else 'never'}"
        for name, v in values.items()
    )


FIGURES = (
    Figure(
        "lorenz-trajectories",
        "Lorenz: the way of θ by noise period (main paper, figures 5a and 8)",
        make_trajectories,
        Seeds(2, 5, 10),
    ),
    Figure(
        "lorenz-convergence",
        "Lorenz: convergence of all methods (main paper, figures 5b and 9)",
        make_convergence,
        Seeds(1, 5, 10),
    ),
)
