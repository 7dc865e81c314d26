"""What `es-rl variance` tells: a table, JSON, and a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from es_rl.cli.variance_source import Subject
    from es_rl.variance import Measurement
    from es_rl.variance_figure import Line
    from es_rl.variance_interval import Interval

__all__ = ["MAX_CLOSED_HORIZON", "Case", "Plan", "Row", "draw", "facts", "print_rows"]

MAX_CLOSED_HORIZON = 3000
"""The closed form needs T² numbers for each parameter: longer episodes go without it."""


class Case(NamedTuple):
    """One estimator to measure: W but for fulles, and K for gpes alone."""

    algo: str
    unroll_length: int | None
    noise_period: int | None

    @property
    def options(self) -> dict[str, int]:
        """The estimator's own options."""
        given = {"unroll_length": self.unroll_length, "noise_period": self.noise_period}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def words(self) -> str:
        """The estimator and its options, for people."""
        words = [self.algo]
        if self.unroll_length is not None:
            words.append(f"W {self.unroll_length}")
        if self.noise_period is not None:
            words.append(f"K {self.noise_period}")
        return " ".join(words)


class Plan(NamedTuple):
    """What all estimators are measured with.

    Attributes:
        name: of the task.
        subject: task, θ and T.
        sigma: σ.
        n_pairs: N of the update whose variance is told.
        n_samples: independent samples.
        seed: of all randomness.
        confidence: level of the intervals.
    """

    name: str
    subject: Subject
    sigma: float
    n_pairs: int
    n_samples: int
    seed: int
    confidence: float

    @property
    def why_not_closed(self) -> str | None:
        """Why the closed form that the task has is not told, None if it is or if there is none."""
        horizon = self.subject.horizon
        if horizon <= MAX_CLOSED_HORIZON or not hasattr(self.subject.task, "step_gradients"):
            return None
        return f"needs T² numbers, left out above --horizon {MAX_CLOSED_HORIZON}"


class Row(NamedTuple):
    """One estimator, what was measured of it, and its exact variance if that is known."""

    case: Case
    result: Measurement
    closed: float | None


def _per_episode(plan: Plan, row: Row) -> float:
    """Return the variance of a mean of estimates that costs 2T steps, as one of fulles does."""
    return row.result.variance.value * row.result.steps_per_estimate / (2 * plan.subject.horizon)


def facts(plan: Plan, rows: Sequence[Row], plot: str | None) -> dict[str, Any]:
    """Return everything as values that JSON can hold; `plot` is the picture's file, if any."""
    subject = plan.subject

    def interval(measured: Interval | None) -> dict[str, float | None] | None:
        if measured is None:
            return None
        parts = measured.over(plan.n_pairs)._asdict()
        # JSON has no infinity: null where there is no upper end
        return {name: value if math.isfinite(value) else None for name, value in parts.items()}

    return {
        "task": plan.name, "theta": subject.theta_name, "num_params": subject.task.num_params,
        "horizon": subject.horizon, "sigma": plan.sigma, "pairs": plan.n_pairs,
        "samples": plan.n_samples, "seed": plan.seed, "confidence": plan.confidence, "plot": plot,
        "why_not_closed": plan.why_not_closed,
        "estimators": [
            {
                "algo": row.case.algo, "unroll_length": row.result.unroll_length,
                "noise_period": row.result.noise_period,
                "variance": interval(row.result.variance),
                "closed_form": None if row.closed is None else row.closed / plan.n_pairs,
                "stratified": interval(row.result.stratified),
                "episode": interval(row.result.episode),
                "at_equal_steps": _per_episode(plan, row),
                "steps_per_estimate": row.result.steps_per_estimate,
                "total_steps": row.result.total_steps,
                "squared_norm_of_mean": row.result.squared_norm,
                "mean_gradient": row.result.mean.tolist(),
                "standard_error": row.result.mean_error.tolist(),
            }
            for row in rows
        ],
    }  # fmt: skip


def print_rows(plan: Plan, rows: Sequence[Row]) -> None:
    """Print the table."""
    from es_rl.cli.tables import print_table

    subject = plan.subject
    print(
        f"{plan.name} · θ {subject.theta_name} (d {subject.task.num_params}) · "
        f"T {subject.horizon:,} · σ {plan.sigma:g} · N {plan.n_pairs:,} · "
        f"{plan.n_samples:,} samples · seed {plan.seed}\n"
    )
    equal = f"in {2 * subject.horizon:,} steps"
    titles = ["estimator", "W", "K", "variance", f"{100 * plan.confidence:g} % interval"]
    has_closed = any(row.closed is not None for row in rows)
    titles += ["closed form"] * has_closed + ["over |mean|²", equal]
    lines = []
    for row in rows:
        r = row.result
        v = r.variance.over(plan.n_pairs)
        period = "–" if r.noise_period is None else f"{r.noise_period:,}"
        words = [row.case.algo, f"{r.unroll_length:,}", period, f"{v.value:.4g}",
                 f"{v.low:.4g} to {v.high:.4g}"]  # fmt: skip
        if has_closed:
            words.append("–" if row.closed is None else f"{row.closed / plan.n_pairs:.4g}")
        over = v.value / r.squared_norm if r.squared_norm > 0 else math.nan
        words += [f"{over:.3g}" if math.isfinite(over) else "–", f"{_per_episode(plan, row):.4g}"]
        lines.append(words)
    print_table(titles, lines, left=("estimator",))
    whose = "one pair's estimate" if plan.n_pairs == 1 else f"an update of {plan.n_pairs:,} pairs"
    print(
        f"\nvariance: trace of the covariance of {whose}, its windows drawn at random\n"
        f"{equal}: of the mean of as many pairs' estimates as cost what one of fulles costs"
    )
    if plan.why_not_closed is not None:
        print(f"closed form: {plan.why_not_closed}")


def draw(plan: Plan, rows: Sequence[Row], path: str) -> None:
    """Write the picture to `path`."""
    from es_rl.plotting import save_figure
    from es_rl.variance_figure import draw_variances

    lines, x_label, categories = _lines(plan, rows)
    whose = "of one pair" if plan.n_pairs == 1 else f"of {plan.n_pairs:,} pairs"
    figure = draw_variances(
        lines,
        x_label=x_label,
        y_label=f"total variance {whose}",
        title=f"{plan.name}, T {plan.subject.horizon:,}, σ {plan.sigma:g}",
        caption=f"{plan.n_samples:,} samples, {100 * plan.confidence:g} % bootstrap interval",
        categories=categories,
    )
    save_figure(figure, path)


def _lines(plan: Plan, rows: Sequence[Row]) -> tuple[list[Line], str, list[str]]:
    """Return what to draw, over the noise periods if there are several, else over the windows."""
    from es_rl.variance_figure import Line

    def line(label: str, some: Sequence[Row], x: Sequence[float], named: bool = False) -> Line:
        closed = [row.closed / plan.n_pairs for row in some if row.closed is not None]
        return Line(
            label, x, [row.result.variance.over(plan.n_pairs) for row in some],
            closed if len(closed) == len(some) else (),
            [row.case.algo if row.case.algo != "gpes" else "" for row in some] if named else (),
        )  # fmt: skip

    periods = {row.case.noise_period for row in rows} - {None}
    lengths = sorted({row.case.unroll_length for row in rows if row.case.unroll_length})
    if len(periods) < 2 and len(lengths) < 2:
        names = [row.case.words for row in rows]
        return (
            [line(n, [row], [i]) for i, (n, row) in enumerate(zip(names, rows, strict=True))],
            ("estimator"),
            names,
        )
    lines = []
    if len(periods) >= 2:
        for w in lengths:
            family = sorted(
                (row for row in rows if row.case.unroll_length == w and row.result.noise_period),
                key=lambda row: row.result.noise_period or 0,
            )
            x = [float(row.result.noise_period or 0) for row in family]
            lines.append(line(f"gpes W {w}", family, x, named=True))
        lines += [
            line(row.case.words, [row], ()) for row in rows if row.result.noise_period is None
        ]
        return lines, "noise period K", []
    for algo in dict.fromkeys(row.case.algo for row in rows):
        own = [row for row in rows if row.case.algo == algo]
        x = [] if algo == "fulles" else [float(row.case.unroll_length or 0) for row in own]
        lines.append(line(algo, own, x))
    return lines, "unroll length W", []
