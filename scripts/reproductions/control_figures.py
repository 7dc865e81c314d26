"""The papers' control runs: Swimmer, HalfCheetah, and HalfCheetah with a non-linear policy."""

from __future__ import annotations

import math

from reproductions.control import Outcome, Study, compare, present, tuned
from reproductions.registry import Figure, Seeds
from reproductions.report import Report

__all__ = ["FIGURES"]

_PLAIN = {"optimizer": "sgd", "lr_schedule": "constant", "init_scale": 0.0}
_SHAPED = {**_PLAIN, "normalize_observations": True, "shaping": "std"}
SWIMMER = Study(
    "Swimmer-v4", 30, 100, (325.0, 360.0), _PLAIN,
    {"nres": 1.0, "pes": 1.0, "tes": 3.0, "fulles": 1.0}, (0.1, 0.3),
)  # fmt: skip

# 3430 is the ARS paper's threshold, 4800 Gymnasium's; what the paper took is not known here
CHEETAH = Study(
    "HalfCheetah-v4", 150, 20, (1000.0, 3430.0, 4800.0), _SHAPED,
    {"nres": 0.01, "pes": 0.003, "tes": 0.01, "fulles": 0.01}, (0.01, 0.03),
)  # fmt: skip
NORMALIZED = CHEETAH._replace(
    thresholds=(3430.0, 4800.0), rates=dict.fromkeys(CHEETAH.rates, 0.03), sigmas=(0.03,)
)
# 17-30-6 with biases: 726 parameters, weights of variance 0.3 over the number of inputs
NONLINEAR = CHEETAH._replace(
    settings={**_SHAPED, "init_scale": 0.3, "policy": "mlp", "hidden": [30], "activation": "relu"}
)


def _small(study: Study) -> Study:
    """Return the study with the fewest pairs that still give all methods equal steps."""
    return study._replace(n_pairs=6, unroll_length=500)


def make_swimmer(report: Report) -> None:
    total, every = report.pick(12_000, 300_000, 1_200_000), report.pick(2, 5, 4)
    study = report.pick(_small(SWIMMER), SWIMMER, SWIMMER)
    best = tuned(report, study, report.pick(6_000, 240_000, 600_000))
    outcome = compare(report, study, "tuned", total, every, best)
    present(report, study, outcome, "swimmer", "Swimmer-v4, tuned rate and σ of each method")
    _judge(report, study, outcome, "tuned rates", times=10.0, failing=("TES",))
    if report.size == "quick":
        return
    paper = SWIMMER._replace(settings={})
    outcome = compare(report, paper, "paper", total, every, {}, preset="paper-Swimmer-v4")
    present(report, paper, outcome, "swimmer-paper", "Swimmer-v4, the released code's settings")
    _judge(report, paper, outcome, "the paper's settings", times=10.0, failing=("TES",))


def make_cheetah(report: Report) -> None:
    _compare_cheetahs(
        report, CHEETAH, "half-cheetah", "HalfCheetah-v4, linear policy", "tuned rates",
        report.pick(12_000, 1_000_000, 12_000_000), report.pick(6_000, 400_000, 1_500_000),
    )  # fmt: skip
    if report.size == "quick":
        return
    paper = CHEETAH._replace(settings={}, n_pairs=300)
    length = report.pick(12_000, 450_000, 12_000_000)
    outcome = compare(report, paper, "paper", length, 10, {}, preset="paper-HalfCheetah-v4")
    title = "HalfCheetah-v4, the released code's settings"
    present(report, paper, outcome, "half-cheetah-paper", title)
    if report.size == "full":
        _judge(report, paper, outcome, "the paper's settings", times=60.0, failing=("PES", "TES"))
    else:  # too short to contradict runs of 12 million steps
        _tell_final(report, paper, outcome, f"the paper's settings, {length:,} steps of its 12 M")


def make_normalized(report: Report) -> None:
    _compare_cheetahs(
        report, NORMALIZED, "half-cheetah-normalized",
        "HalfCheetah-v4, observations normalised", "observations normalised, tuned rates",
        report.pick(12_000, 1_500_000, 12_000_000), report.pick(6_000, 600_000, 1_500_000),
    )  # fmt: skip


def make_nonlinear(report: Report) -> None:
    _compare_cheetahs(
        report, NONLINEAR, "half-cheetah-726", "HalfCheetah-v4, 726 parameters",
        "726 parameters, tuned rates", report.pick(12_000, 800_000, 12_000_000),
        report.pick(6_000, 400_000, 1_500_000),
    )  # fmt: skip


def _compare_cheetahs(
    report: Report, study: Study, name: str, title: str, words: str, total_steps: int,
    tuning_steps: int,
) -> None:  # fmt: skip
    """Tune, compare, present and judge one study of HalfCheetah."""
    study = report.pick(_small(study), study, study)
    best = tuned(report, study, tuning_steps)
    every = report.pick(2, 15, 50)
    outcome = compare(report, study, "tuned", total_steps, every, best)
    present(report, study, outcome, name, f"{title}, tuned rate and σ of each method")
    _judge(report, study, outcome, words, times=60.0, failing=("PES", "TES"))


def _judge(
    report: Report, study: Study, outcome: Outcome, words: str, *, times: float,
    failing: tuple[str, ...],
) -> None:  # fmt: skip
    """Judge what the paper says of one environment, at its first threshold."""
    threshold = study.thresholds[0]
    found = {method: s.reached[threshold] for method, s in outcome.summaries.items()}
    runs = {method: s.n_runs for method, s in outcome.summaries.items()}
    sequential = {m: math.inf if r.sequential is None else r.sequential for m, r in found.items()}
    total = {m: math.inf if r.total is None else r.total for m, r in found.items()}
    where = f"{study.env} to {threshold:g}, {words}"
    first, full = sequential["NRES"], sequential["FullES"]
    bound = min(full, _sequential_end(outcome, "FullES"))
    told, enough = "NRES does not get there", False
    if math.isfinite(first):
        told = f"{'' if math.isfinite(full) else 'more than '}{bound / first:.1f}×"
        enough = bound / first >= times / 2
    report.verdict(
        f"{where}: FullES takes {times:g}× as many sequential steps as NRES (ratio of medians)",
        told, agrees=enough,
    )  # fmt: skip
    for method in failing:
        report.verdict(
            f"{where}: {method} fails", f"{found[method].n_runs} of {runs[method]} seeds get there",
            agrees=found[method].n_runs < runs[method] / 2,
        )  # fmt: skip
    if "PES" not in failing:
        report.verdict(
            f"{where}: PES takes longer than NRES, in sequential steps (medians)",
            f"PES {_steps(sequential['PES'])}, NRES {_steps(first)}",
            agrees=sequential["PES"] > first,
        )  # fmt: skip
    report.verdict(
        f"{where}: NRES takes the fewest total steps (medians, table 3)",
        ", ".join(f"{method} {_steps(steps)}" for method, steps in total.items()),
        agrees=math.isfinite(total["NRES"]) and total["NRES"] == min(total.values()),
    )  # fmt: skip
    _tell_final(report, study, outcome, words)


def _tell_final(report: Report, study: Study, outcome: Outcome, words: str) -> None:
    """Report the rewards that the runs end with."""
    report.verdict(
        f"{study.env}, {words}: final reward (interquartile mean over seeds)",
        ", ".join(
            f"{m} {s.final:.0f}" for m, s in outcome.summaries.items() if s.final is not None
        ),
        interval=", ".join(
            f"{s.low:.0f} to {s.high:.0f}"
            for s in outcome.summaries.values()
            if s.low is not None and s.high is not None
        ),
        agrees=None,
    )  # fmt: skip


def _sequential_end(outcome: Outcome, method: str) -> float:
    """Return the sequential steps of a method's whole runs, 0 if it has none."""
    ends = [
        float(curve.x["sequential"][-1])
        for group in outcome.groups
        if group.label == method
        for curve in group.curves
    ]
    return min(ends, default=0.0)


def _steps(steps: float) -> str:
    return f"{steps:,.0f}" if math.isfinite(steps) else "never"


FIGURES = (
    Figure(
        "swimmer",
        "Swimmer: reward against sequential and total steps (main paper, figure 7a and table 3)",
        make_swimmer,
        Seeds(1, 5, 5),
    ),
    Figure(
        "half-cheetah",
        "HalfCheetah: the same with a linear policy (main paper, figure 7b and table 3)",
        make_cheetah,
        Seeds(1, 5, 5),
    ),
    Figure(
        "half-cheetah-normalized",
        "HalfCheetah: the same with what the main paper leaves out: normalised observations",
        make_normalized,
        Seeds(1, 5, 5),
    ),
    Figure(
        "half-cheetah-726",
        "HalfCheetah: the same with a policy of 726 parameters (main paper, appendix E.1.3)",
        make_nonlinear,
        Seeds(1, 5, 5),
    ),
)
