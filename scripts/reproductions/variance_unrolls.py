"""Variance of PES's estimates, summed over an episode, against the number of unrolls (poster)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from es_rl.envs.influence_balancing import InfluenceBalancingTask
from es_rl.variance_theory import episode_variance, mean_gradient
from reproductions.cells import Cell
from reproductions.pictures import COLOURS, legend_below, new_picture, tidy
from reproductions.registry import Figure, Seeds
from reproductions.report import Report
from reproductions.variance_measures import (
    lstm_gradient,
    lstm_variance,
    pooled,
    ratio,
    system_variance,
)

__all__ = ["FIGURES"]

UNITS, SIGMA, PAIRS = 5, 1e-3, 500


def make(report: Report) -> None:
    horizon = report.pick(40, 1000, 1000)
    counts = report.pick([1, 4, 40], [1, 2, 4, 10, 20, 40, 100, 200, 500, 1000],
                         [1, 2, 4, 5, 8, 10, 20, 40, 50, 100, 200, 250, 500, 1000])  # fmt: skip
    (exact,) = report.compute(lstm_gradient, [{"units": UNITS, "horizon": horizon}])
    norm = float(np.sum(exact["gradient"] ** 2))
    n = len(report.seeds)
    places = {"pes": counts, "nres": report.pick([1, 40], [1, 10, 100, 1000], counts)}
    by_method: dict[str, list[list[Cell]]] = {}
    for method, own in places.items():
        cases: list[dict[str, Any]] = [
            {"units": UNITS, "horizon": horizon, "method": method, "sigma": SIGMA, "seed": seed,
             "unroll_length": horizon // count, "n_samples": report.pick(20, 100, 2000)}
            for count in own for seed in report.seeds
        ]  # fmt: skip
        cells = report.compute(lstm_variance, cases)
        by_method[method] = [cells[i : i + n] for i in range(0, len(cells), n)]
    length = report.pick(24, 120, 120)
    few = [count for count in (1, 2, 4, 12, 24, 60, 120) if length % count == 0]
    balancing = report.compute(
        system_variance,
        [{"system": "influence-balancing", "method": "pes", "horizon": length, "sigma": 0.1,
          "options": {"unroll_length": length // count},
          "n_samples": report.pick(500, 4000, 100_000), "seed": seed}
         for count in few for seed in report.seeds],
    )  # fmt: skip
    task = InfluenceBalancingTask(horizon=length)
    gradients = task.step_gradients(task.initial_theta(), length)
    closed = [episode_variance(gradients, length // count) for count in few]
    measured = [balancing[i : i + n] for i in range(0, len(balancing), n)]

    picture, axes = new_picture(1, 3, width=4.0)
    colours = {"pes": COLOURS["PES"], "nres": COLOURS["NRES"]}
    rows: list[dict[str, Any]] = []
    for column, (name, scale) in enumerate((("episode", PAIRS), ("variance", 1))):
        for method, own in places.items():
            estimates = [pooled(group, name) for group in by_method[method]]
            values = np.array([e.value for e in estimates]) / (scale * norm)
            ends = np.array([[e.low, e.high] for e in estimates]).T / (scale * norm)
            axes[0, column].errorbar(
                own, values, yerr=np.nan_to_num(np.abs(ends - values)), fmt="o-", ms=4, capsize=3,
                lw=1.4, color=colours[method], label=method.upper(),
            )  # fmt: skip
            rows += [
                {"task": "char-lstm", "measure": name, "method": method, "unrolls": count,
                 "relative_variance": value, "low": low, "high": high, "closed_form": ""}
                for count, value, low, high in zip(own, values, *ends, strict=True)
            ]  # fmt: skip
    estimates = [pooled(group, "episode") for group in measured]
    values = np.array([e.value for e in estimates])
    spread = np.abs(np.array([[e.low, e.high] for e in estimates]).T - values)
    square = float(np.sum(mean_gradient(gradients) ** 2))
    axes[0, 2].errorbar(
        few, values / square, yerr=np.nan_to_num(spread) / square, fmt="o", ms=4, capsize=3,
        color=colours["pes"],
    )  # fmt: skip
    axes[0, 2].plot(few, np.array(closed) / square, "--", color="0.25", lw=1.2,
                    label="closed form (T7)")  # fmt: skip
    rows += [
        {"task": "influence-balancing", "measure": "episode", "method": "pes", "unrolls": count,
         "relative_variance": e.value / square, "low": e.low / square, "high": e.high / square,
         "closed_form": exactly / square}
        for count, e, exactly in zip(few, estimates, closed, strict=True)
    ]  # fmt: skip
    titles = (f"char-LSTM: summed over the episode, {PAIRS} pairs", "char-LSTM: one window, one "
              "pair", f"influence balancing, T={length}: summed, one pair")  # fmt: skip
    for place, title in zip(axes[0], titles, strict=True):
        place.set(xscale="log", yscale="log")
        tidy(place, x="unrolls of an episode, T/W", y="variance / ‖gradient‖²", title=title)
    legend_below(picture, f"{n} seeds, 95 % intervals")
    report.save(picture, "variance-unrolls")
    report.write_csv("variances", rows)
    _judge(report, counts, by_method["pes"], few, measured, closed)


def _judge(
    report: Report, counts: list[int], pes: list[list[Cell]], few: list[int],
    measured: list[list[Cell]], closed: list[float],
) -> None:  # fmt: skip
    def numbers(group: list[Cell]) -> list[float]:
        return [cell.number("episode") for cell in group]

    means = [float(np.mean(numbers(group))) for group in pes]
    least = int(np.argmin(means))
    fall, rise = (
        ratio(numbers(pes[0]), numbers(pes[least])),
        ratio(numbers(pes[-1]), numbers(pes[least])),
    )
    report.verdict(
        "char-LSTM, PES: the variance of the summed estimates falls as an episode is cut into more "
        "unrolls, then rises (poster)",
        f"least at {counts[least]} unrolls; one unroll has {fall.text()} times as much, "
        f"{counts[-1]} have {rise.text()} times as much",
        interval=f"{fall.interval()}; {rise.interval()}",
        agrees=0 < least < len(counts) - 1 and fall.low > 1 and rise.low > 1,
    )  # fmt: skip
    begin = len(counts) - 3
    slope = np.polyfit(np.log(counts[begin:]), np.log(means[begin:]), 1)[0]
    report.verdict(
        "the rise is linear",
        f"in proportion to unrolls^{slope:.2f} from {counts[begin]} to {counts[-1]} unrolls",
        agrees=bool(0.7 < slope < 1.3),
    )  # fmt: skip
    distances = []
    for group, exact in zip(measured, closed, strict=True):
        error = math.sqrt(sum(cell.number("episode_error") ** 2 for cell in group)) / len(group)
        distances.append((float(np.mean(numbers(group))) - exact) / error)
    report.verdict(
        "the closed form of the summed estimates' variance (T7); influence balancing, "
        f"{len(few)} numbers of unrolls",
        f"{max(map(abs, distances)):.2g} standard errors away at most",
        agrees=max(map(abs, distances)) < 3,
    )  # fmt: skip


FIGURES = (
    Figure(
        "variance-unrolls",
        "Variance of summed PES estimates against the number of unrolls (poster)",
        make,
        Seeds(2, 5, 5),
    ),
)
