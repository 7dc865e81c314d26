"""Tables and learning curves of the control benchmark's runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from results import table

from es_rl.comparison import interquartile_mean
from es_rl.curves import Curve, Group
from es_rl.plotting import draw, make_panels, save_figure

__all__ = ["Result", "pictures", "task_tables"]

_SHARES = (0.2, 0.5, 1.0)  # of the task's budget, at which rewards are told
_N_RESAMPLES = 20_000  # of the ratios' bootstrap
_LOGARITHMIC_FROM = 5  # times the shortest run's steps or seconds in the longest's


class Result(NamedTuple):
    """The judgements of one run, each (n,) float64, in the order of time.

    Attributes:
        task: environment.
        method: as the benchmark names it.
        seed: of the run.
        total: total steps.
        sequential: sequential steps.
        seconds: of training.
        reward: mean reward.
    """

    task: str
    method: str
    seed: int
    total: NDArray[np.float64]
    sequential: NDArray[np.float64]
    seconds: NDArray[np.float64]
    reward: NDArray[np.float64]


def reward_at(result: Result, total_steps: float) -> float | None:
    """Return the last judgement at or before `total_steps`; None if the run is shorter than that.

    A run counts as that long from the last judgement but one's distance before its end on.
    """
    spacing = result.total[-1] - result.total[-2] if result.total.size > 1 else 0.0
    if result.total[-1] + 0.5 * spacing < total_steps:
        return None
    there = np.flatnonzero(result.total <= total_steps + 0.5 * spacing)
    return float(result.reward[there[-1]]) if there.size else None


def first_at(result: Result, threshold: float, axis: str) -> float:
    """Return where along `axis` a judgement first is at or above `threshold`; infinite if none."""
    there = np.flatnonzero(result.reward >= threshold)
    return float(getattr(result, axis)[there[0]]) if there.size else float("inf")


def task_tables(results: Sequence[Result], about: Mapping[str, Any]) -> str:
    """Return one task's Markdown: rewards at budgets, then steps and time to thresholds.

    Args:
        results: one or more runs of the task.
        about: its entry of control_tasks.yaml.
    """
    groups = _by_method(results)
    parts = [_rewards(groups, about["budget"]), _reached(groups, about["thresholds"])]
    if "ratios" in about:
        parts.append(_ratios(groups, about["ratios"]))
    if "each_run" in about:
        parts.append(_each_run(groups, about["each_run"], about["thresholds"][-1]))
    if "published" in about:
        parts.append(_published(about["published"]))
    return "\n\n".join(part for part in parts if part)


def _by_method(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Return the runs of each method, ours first."""
    methods = sorted({r.method for r in results}, key=lambda m: (m.startswith("sb3"), m))
    return {m: [r for r in results if r.method == m] for m in methods}


def _rewards(groups: Mapping[str, Sequence[Result]], budget: int) -> str:
    rows = []
    for method, runs in groups.items():
        row: dict[str, Any] = {"method": method, "seeds": len(runs)}
        for share in _SHARES:
            values = [reward_at(run, share * budget) for run in runs]
            there = [value for value in values if value is not None]
            row[f"{share * budget:,.0f} steps"] = (
                _interval(there) if len(there) == len(runs) else "–"
            )
        row["end of its runs"] = (
            f"{_interval([float(run.reward[-1]) for run in runs])} "
            f"at {np.median([run.total[-1] for run in runs]):,.0f}"
        )
        rows.append(row)
    return "Interquartile mean reward over seeds [95% bootstrap interval]:\n\n" + table(rows)


def _interval(values: Sequence[float]) -> str:
    middle, low, high = interquartile_mean(values)
    if low is None:
        return f"{middle:,.0f}" if abs(middle) >= 100 else f"{middle:.2f}"
    form = "{:,.0f}" if max(abs(low), abs(high or 0.0)) >= 100 else "{:.2f}"
    return f"{form.format(middle)} [{form.format(low)} to {form.format(high)}]"


def _reached(groups: Mapping[str, Sequence[Result]], thresholds: Sequence[float]) -> str:
    rows = []
    for method, runs in groups.items():
        for threshold in thresholds:
            totals = [first_at(run, threshold, "total") for run in runs]
            n_there = int(np.isfinite(totals).sum())
            if not n_there:
                continue
            rows.append(
                {
                    "method": method,
                    "reward": f"{threshold:g}",
                    "reached by": f"{n_there}/{len(runs)}",
                    "total steps": _median(totals, "{:,.0f}"),
                    "sequential steps": _median(
                        [first_at(run, threshold, "sequential") for run in runs], "{:,.0f}"
                    ),
                    "seconds": _median(
                        [first_at(run, threshold, "seconds") for run in runs], "{:.1f}"
                    ),
                }
            )
    if not rows:
        return f"None of {', '.join(f'{t:g}' for t in thresholds)} was reached by any run."
    head = (
        "Median over seeds until an evaluation reaches a reward (– where half the seeds never did):"
    )
    return head + "\n\n" + table(rows)


def _ratios(groups: Mapping[str, Sequence[Result]], ratios: Sequence[Mapping[str, Any]]) -> str:
    """Return how many times as many steps one method needs as another, both of them run.

    Args:
        groups: runs by method.
        ratios: each the methods `of` and `to`, and the rewards `at` which they are compared.
    """
    rows = []
    for ratio in ratios:
        if not {ratio["of"], ratio["to"]} <= groups.keys():
            continue
        for threshold in ratio["at"]:
            row = {"method": f"{ratio['of']} / {ratio['to']}", "reward": f"{threshold:g}"}
            for axis in ("sequential", "total"):
                of, to = (
                    [first_at(run, threshold, axis) for run in groups[ratio[side]]]
                    for side in ("of", "to")
                )
                text = "{:.3g} [{:.3g} to {:.3g}]".format(*median_ratio(of, to))
                row[f"{axis} steps"] = text.replace("inf", "∞")
            rows.append(row)
    head = (
        "Ratio of the medians of steps until an evaluation reaches a reward "
        "[95% bootstrap interval, seeds of either method drawn apart]:"
    )
    return head + "\n\n" + table(rows) if rows else ""


def median_ratio(of: Sequence[float], to: Sequence[float]) -> tuple[float, float, float]:
    """Return the ratio of two medians, and the ends of its percentile bootstrap interval.

    Args:
        of: steps of each run, infinite where it never got there.
        to: likewise.

    Returns:
        (ratio, low, high). A ratio is infinite, or 0, where half the runs of one never got there.
        Of a draw in which half of both did not it may be anything, and is taken to be 0 for the
        lower end, infinite for the upper one. NaN is the ratio of such runs themselves.
    """
    # not scipy.stats.bootstrap, which needs finite values and two runs of each method
    drawn = np.random.default_rng(0)
    medians = [
        np.median(drawn.choice(values, (_N_RESAMPLES, len(values))), axis=1) for values in (of, to)
    ]
    with np.errstate(invalid="ignore"):
        middle = np.median(of) / np.median(to)
        ratios = medians[0] / medians[1]
    low, high = (
        np.percentile(np.where(np.isnan(ratios), unknown, ratios), share, method="inverted_cdf")
        for unknown, share in ((0.0, 2.5), (np.inf, 97.5))
    )
    return float(middle), float(low), float(high)


def _each_run(
    groups: Mapping[str, Sequence[Result]], spans: Sequence[Sequence[int]], threshold: float
) -> str:
    """Return the reward of each run at total steps, a table for each of `spans`.

    A table leaves out runs that ended before all of its steps. The last one also says when a run
    first was at `threshold`.
    """
    tables = []
    for steps in spans:
        rows = []
        for method, runs in groups.items():
            for run in sorted(runs, key=lambda run: run.seed):
                rewards = [reward_at(run, n) for n in steps]
                if all(reward is None for reward in rewards):
                    continue
                row = {"method": method, "seed": run.seed}
                for n, reward in zip(steps, rewards, strict=True):
                    row[f"{n / 1e6:g}"] = "–" if reward is None else f"{reward:,.0f}"
                if steps is spans[-1]:
                    first = first_at(run, threshold, "total")
                    text = "–" if np.isinf(first) else f"{first / 1e6:.2f}"
                    row[f"first at {threshold:g}"] = text
                rows.append(row)
        tables.append(table(rows))
    return "Reward of each run, by million steps:\n\n" + "\n\n".join(tables)


def _median(values: Sequence[float], form: str) -> str:
    middle = float(np.median(values))
    return form.format(middle) if np.isfinite(middle) else "–"


def _published(published: Mapping[str, Any]) -> str:
    parts = []
    if "zoo" in published:
        figures = ", ".join(f"{name} {text}" for name, text in published["zoo"].items())
        parts.append(f"RL Zoo (one run each, -v3): {figures}")
    if "ars" in published:
        parts.append(f"ARS paper: {published['ars']}")
    if "cleanrl" in published:
        parts.append(f"CleanRL's PPO after 1M steps (three runs): {published['cleanrl']}")
    return "Published, not run here: " + "; ".join(parts) + "."


def pictures(
    results: Sequence[Result], tasks: Mapping[str, Mapping[str, Any]], folder: str
) -> list[str]:
    """Draw a picture for each task, reward over total, sequential steps and time.

    Returns:
        the files written.
    """
    os.makedirs(folder, exist_ok=True)
    written = []
    for task, about in tasks.items():
        rows = [r for r in results if r.task == task]
        groups = [Group(m, task, [_curve(r) for r in runs]) for m, runs in _by_method(rows).items()]
        if not groups:
            continue
        panels, _ = make_panels(
            groups, ("total", "sequential", "time"), {task: about["thresholds"]},
            each_run=any(_end_apart(g.curves) for g in groups),
        )  # fmt: skip
        path = os.path.join(folder, f"{task}.png")
        ends = ([r.total[-1] for r in rows], [r.seconds[-1] for r in rows])
        log_x = any(max(x) > _LOGARITHMIC_FROM * min(x) for x in ends)
        save_figure(draw(panels, log_x=log_x), path)
        written.append(path)
    return written


def _end_apart(runs: Sequence[Curve]) -> bool:
    """Return whether some runs end much sooner than others: the mean ends with the first."""
    ends = [run.x["total"][-1] for run in runs]
    return bool(max(ends) > 1.5 * min(ends))


def _curve(result: Result) -> Curve:
    x = {"total": result.total, "sequential": result.sequential, "time": result.seconds}
    return Curve("", result.task, result.method, result.seed, {}, x, result.reward)
