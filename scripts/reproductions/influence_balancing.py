"""Influence balancing: what looks one step ahead is led away, what is unbiased arrives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from es_rl import GPES, NRES, PES, SGD, TES, Trainer
from es_rl.baselines import DODGE, RTRL, TBPTT, UORO
from es_rl.envs.influence_balancing import InfluenceBalancingTask
from es_rl.estimators import Estimator
from reproductions.cells import Cell
from reproductions.pictures import COLOURS, legend_below, new_picture, plot_band, tidy
from reproductions.registry import Figure, Seeds
from reproductions.report import Report
from reproductions.statistics import mean_band, mean_estimate, median_estimate
from reproductions.training import follow, tune

__all__ = ["FIGURES"]

SIGMA, RATE = 0.1, 1e-4
OPTIMUM = InfluenceBalancingTask.optimum
CLOSE = 1e-3  # |θ - θ*| that counts as arrived
TURN = 110  # the shortest window for which TBPTT's gradient has the right sign


class Method(NamedTuple):
    """An estimator and its size.

    Attributes:
        kind: name of the estimator.
        n: pairs, or workers of a method that differentiates.
        window: W.
        period: K, for GPES.
    """

    kind: str
    n: int = 1
    window: int = 1
    period: int = 1

    @property
    def is_random(self) -> bool:
        """Return whether seeds matter to it."""
        return self.kind not in ("RTRL", "TBPTT")

    @property
    def label(self) -> str:
        if self.kind == "TBPTT":
            return f"TBPTT, W={self.window}"
        period = f", K={self.period}" if self.kind == "GPES" else ""
        return f"{self.kind}{period}, N={self.n}" if self.is_random else self.kind


METHODS = (
    Method("RTRL"),
    *(Method(kind, n) for kind in ("NRES", "PES") for n in (5, 50, 500)),
    Method("GPES", 500, period=100),
    Method("TES", 500),
    *(Method("TBPTT", window=w) for w in (1, 10, 100, TURN, 200)),
    *(Method(kind, n) for kind in ("DODGE", "UORO") for n in (5, 50, 500)),
)
SHOWN = ("RTRL", "NRES, N=5", "NRES, N=500", "PES, N=50", "PES, N=500", "TES, N=500",
         "TBPTT, W=1", "DODGE, N=500", "UORO, N=500")  # fmt: skip


def _estimator(method: Method, task: InfluenceBalancingTask, seed: int) -> Estimator:
    window, pairs = {"unroll_length": method.window}, {"n_pairs": method.n, "sigma": SIGMA}
    match method.kind:
        case "NRES":
            return NRES(task, seed=seed, **window, **pairs)
        case "PES":
            return PES(task, seed=seed, **window, **pairs)
        case "GPES":
            return GPES(task, seed=seed, noise_period=method.period, **window, **pairs)
        case "TES":
            return TES(task, seed=seed, **window, **pairs)
    kinds: dict[str, Any] = {"RTRL": RTRL, "TBPTT": TBPTT, "DODGE": DODGE, "UORO": UORO}
    return kinds[method.kind](task, n_workers=method.n, seed=seed, **window)


def train(
    kind: str, n: int, window: int, period: int, learning_rate: float, updates: int, every: int,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Train θ from ½ and follow its distance from the optimum, and its loss once at rest."""
    task = InfluenceBalancingTask(n_threads=1)
    estimator = _estimator(Method(kind, n, window, period), task, seed)
    trainer = Trainer(estimator, SGD(1, learning_rate), task.initial_theta())

    def measure(theta: NDArray[np.float64]) -> dict[str, float]:
        # at rest s[0] = -6θ
        return {"distance": abs(theta[0] - OPTIMUM), "loss": 0.5 * (6.0 * theta[0] + 1.0) ** 2}

    found = follow(trainer, updates, every, measure)
    return {**found, "score": float(np.mean(found["distance"]))}


def gradient_at_rest(window: int) -> dict[str, float]:
    """Return TBPTT's gradient at θ=½ with windows of this length, once the system is at rest."""
    task = InfluenceBalancingTask(horizon=10**6, n_threads=1)
    theta = task.initial_theta()
    estimator = TBPTT(task, n_workers=1, unroll_length=window, staggering="lockstep")
    estimator.reset(theta)
    for _ in range(-(-600 // window)):
        estimate = estimator.estimate(theta)
    return {"gradient": float(estimate.gradient[0])}


def make(report: Report) -> None:
    updates, every = report.pick(60, 3000, 3000), report.pick(20, 20, 20)
    methods = METHODS if report.size != "quick" else [m for m in METHODS if m.window == 1]
    if report.size == "quick":
        methods = [m for m in methods if m.n < 500 or m.kind == "TES"]

    def settings(method: Method, rate: float) -> dict[str, Any]:
        return {"kind": method.kind, "n": method.n, "window": method.window,
                "period": method.period, "learning_rate": rate, "updates": updates,
                "every": every}  # fmt: skip

    grids = {m.label: settings(m, RATE) for m in methods if m.window < 100}
    rates, grid = tune(
        report, train, grids, n_seeds=report.pick(1, 5, 5), reach=report.pick(0, 2, 2),
        most=report.pick(0, 3, 3), deterministic=[m.label for m in methods if not m.is_random],
    )  # fmt: skip
    report.write_csv("tuning", grid)
    tuned = [m for m in methods if m.label in rates]
    asked = [("published", m, RATE) for m in methods]
    asked += [("tuned", m, rates[m.label]) for m in tuned]
    cases = [
        (name, method.label, {**settings(method, rate), "seed": seed})
        for name, method, rate in asked
        for seed in (report.seeds if method.is_random else [0])
    ]
    found = report.compute(train, [case for _, _, case in cases])
    runs: dict[str, dict[str, list[Cell]]] = {"published": {}, "tuned": {}}
    for (name, label, _), cell in zip(cases, found, strict=True):
        runs[name].setdefault(label, []).append(cell)
    windows = report.pick([1, 109, 110], list(range(1, 161)), list(range(1, 301)))
    gradients = report.compute(gradient_at_rest, [{"window": w} for w in windows])
    slopes = {w: cell.number("gradient") for w, cell in zip(windows, gradients, strict=True)}
    _draw(report, runs, slopes)
    _write(report, runs, slopes)
    _judge(report, runs, slopes)


def _distance(cell: Cell) -> float:
    return float(cell["distance"][-1])


def _arrival(cell: Cell) -> float:
    """Return the update from which on θ stays within CLOSE of the optimum; infinite if none."""
    far = np.flatnonzero(~(cell["distance"] < CLOSE))
    if not far.size:
        return 0.0
    return float(cell["update"][far[-1] + 1]) if far[-1] + 1 < cell["update"].size else np.inf


def _draw(
    report: Report, runs: Mapping[str, Mapping[str, Sequence[Cell]]], slopes: Mapping[int, float]
) -> None:
    picture, axes = new_picture(1, 3, width=4.4, height=3.4)
    dashes = {"N=5": ":", "N=50": "--"}
    for place, name in zip(axes[0], ("published", "tuned"), strict=False):
        for label in SHOWN:
            if label not in runs[name]:
                continue
            cells = runs[name][label]
            kind, _, size = label.partition(", ")
            band = mean_band([np.minimum(cell["distance"], 1e9) for cell in cells])
            x = cells[0]["update"].astype(float)
            if size in dashes:
                place.plot(x, band.mean, dashes[size], color=COLOURS[kind], lw=1.6, label=label)
            else:
                plot_band(place, x, band._replace(low=band.low * np.nan), kind, label=label)
        rate = f"rate {RATE:g}" if name == "published" else "tuned rates"
        tidy(place, x="updates", y="|θ + 1/6|", title=rate)
        place.set_yscale("log")
        place.set_ylim(1e-10, 1e3)
        place.axhline(CLOSE, color="0.4", lw=0.9, ls=(0, (4, 3)))
    place = axes[0, 2]
    values = np.array(list(slopes.values()))
    place.plot(list(slopes), values, color=COLOURS["TBPTT"], lw=1.6)
    place.axhline(0.0, color="0.4", lw=0.9)
    place.axvline(TURN, color="0.4", lw=0.9, ls=(0, (4, 3)))
    tidy(place, x="window W", y="gradient of TBPTT at θ=½", title=f"dashed: W={TURN}")
    legend_below(
        picture, f"mean of {report.n_seeds} seeds; dashed line on the left: {CLOSE:g}", columns=5
    )
    report.save(picture, "influence-balancing")


def _write(
    report: Report, runs: Mapping[str, Mapping[str, Sequence[Cell]]], slopes: Mapping[int, float]
) -> None:
    report.write_csv(
        "final",
        [
            {"rates": name, "method": label, "learning_rate": cell.settings["learning_rate"],
             "seed": cell.settings["seed"], "theta": cell["theta"][-1, 0],
             "distance": _distance(cell), "loss": cell["loss"][-1], "arrival": _arrival(cell)}
            for name, some in runs.items()
            for label, cells in some.items()
            for cell in cells
        ],
    )  # fmt: skip
    report.write_csv(
        "curves",
        [
            {"rates": name, "method": label, "seed": cell.settings["seed"],
             "update": cell["update"][i], "theta": cell["theta"][i, 0],
             "distance": cell["distance"][i]}
            for name, some in runs.items()
            for label, cells in some.items()
            for cell in cells
            for i in range(cell["update"].size)
        ],
    )  # fmt: skip
    report.write_csv("summary", [_line(label, runs) for label in runs["published"]], shown=True)
    report.write_csv("tbptt", [{"window": w, "gradient": g} for w, g in slopes.items()])


def _line(label: str, runs: Mapping[str, Mapping[str, Sequence[Cell]]]) -> dict[str, Any]:
    """Return what became of one method; medians over seeds."""
    line: dict[str, Any] = {"method": label}
    for name, some in runs.items():
        cells = some.get(label)
        rate = None if cells is None else cells[0].settings["learning_rate"]
        off = None if cells is None else median_estimate([_distance(c) for c in cells]).value
        arrival = None if cells is None else median_estimate([_arrival(c) for c in cells]).value
        words = "poster's rate" if name == "published" else "tuned rate"
        line[words] = rate
        is_lost = off is not None and not np.isfinite(off)
        line[f"off, {words}"] = "diverged" if is_lost else off
        line[f"updates until within {CLOSE:g}, {words}"] = arrival
    return line


def _judge(
    report: Report, runs: Mapping[str, Mapping[str, Sequence[Cell]]], slopes: Mapping[int, float]
) -> None:
    published, tuned = runs["published"], runs["tuned"]
    for label in ("RTRL", "PES, N=500", "NRES, N=5", "NRES, N=50", "NRES, N=500"):
        cells = published.get(label, [])
        if not cells:
            continue
        off = [_distance(cell) for cell in cells]
        there = sum(distance < CLOSE for distance in off)
        report.verdict(
            f"{label} arrives at θ* = -1/6 (seeds within {CLOSE:g} of it; the worst one)",
            f"{there} of {len(off)}; {max(off):.2g} off",
            agrees=there == len(off), seeds=len(off),
        )  # fmt: skip
    if "PES, N=50" in published:
        off = median_estimate([_distance(cell) for cell in published["PES, N=50"]])
        report.verdict(
            "PES needs many particles: it is far off with 50 pairs (median, range)",
            f"{off.text()} off", interval=off.interval(), agrees=off.value > CLOSE,
        )  # fmt: skip
    if "TBPTT, W=1" in published and "TES, N=500" in published:
        end = float(published["TBPTT, W=1"][0]["theta"][-1, 0])
        tes = mean_estimate([float(cell["theta"][-1, 0]) for cell in published["TES, N=500"]])
        report.verdict("truncated TBPTT is led away from ½, to 3.260", f"{end:.4f}",
                       agrees=abs(end - 3.260) < 0.001, seeds=1)  # fmt: skip
        report.verdict(f"TES ends within 1 % of TBPTT's {end:.3f}", tes,
                       agrees=abs(tes.value / end - 1.0) < 0.01)  # fmt: skip
    turn = [w for w, g in slopes.items() if g > 0]
    report.verdict(
        f"TBPTT's gradient has the wrong sign for every window below {TURN}",
        f"the first window with the right sign is {min(turn)}" if turn else "wrong for all",
        agrees=bool(turn) and min(turn) == TURN and all(slopes[w] > 0 for w in slopes if w >= TURN),
        seeds=1,
    )  # fmt: skip
    pairs = [label for label in ("RTRL", "NRES, N=500", "PES, N=500") if label in tuned]
    arrivals = {label: median_estimate([_arrival(c) for c in tuned[label]]) for label in pairs}
    told = ", ".join(f"{label.split(',')[0]} {a.value:,.0f}" for label, a in arrivals.items())
    if len(pairs) == 3:
        report.verdict(
            f"PES performs like RTRL given enough particles: updates until it stays "
            f"within {CLOSE:g}, tuned rates, 500 pairs (median)",
            told, agrees=arrivals["PES, N=500"].value < 2 * arrivals["RTRL"].value,
        )  # fmt: skip


FIGURES = (
    Figure(
        "influence-balancing",
        "influence balancing: unbiased methods arrive, truncated ones are led away (poster)",
        make,
        Seeds(1, 5, 20),
    ),
)
