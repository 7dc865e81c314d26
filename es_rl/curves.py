"""Learning curves of runs: read from their folders, grouped, and averaged over seeds.

A run's curve is a step function: an evaluation counts until the next one, and the last one for as
long as the interval before it. Runs that were evaluated at different moments can so be averaged
without inventing values between evaluations.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from es_rl.config_layers import load_config
from es_rl.options import OPTIONS, ConfigError, shown
from es_rl.progress import ProgressFile

__all__ = ["AXES", "Band", "Curve", "Group", "average", "find_runs", "group", "read_curve"]

AXES = {"total": "total_steps", "sequential": "sequential_steps", "time": "wall_time"}
"""What a curve can be drawn over, and the column of progress.csv that holds it."""

N_RESAMPLES = 2000
"""Bootstrap resamples of an interval."""

# options in which runs may differ and still be one another's repetition
_INCIDENTAL = {n for n, option in OPTIONS.items() if option.resumable} | {
    "seed", "engine", "eval_every", "eval_episodes", "import_modules",
}  # fmt: skip


class Curve(NamedTuple):
    """The evaluations of one run.

    Attributes:
        run_dir: its folder.
        env: environment.
        algo: algorithm.
        seed: seed of the run.
        settings: its options, without those in which repetitions may differ.
        x: by axis name of `AXES`, (n,) float64, where the evaluations stand, ascending.
        reward: (n,) float64, mean reward of each evaluation.
    """

    run_dir: str
    env: str
    algo: str
    seed: int
    settings: dict[str, Any]
    x: dict[str, NDArray[np.float64]]
    reward: NDArray[np.float64]


class Group(NamedTuple):
    """Runs that differ in nothing but their seeds.

    Attributes:
        label: what sets it apart from the other groups of its environment.
        env: environment.
        curves: one for each seed.
    """

    label: str
    env: str
    curves: list[Curve]


class Band(NamedTuple):
    """A mean over seeds with its confidence interval, as step functions.

    Attributes:
        x: (m,) float64, where the mean changes; the last entry is where it ends.
        mean: (m,) float64.
        low: (m,) float64, lower end of the interval; equal to `mean` for a single run.
        high: (m,) float64, upper end likewise.
        n_runs: curves averaged.
    """

    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n_runs: int


def find_runs(path: str) -> list[str]:
    """Return the folders of runs at or below `path`, in the order of their names.

    Raises:
        ConfigError: if there are none.
    """
    if not os.path.isdir(path):
        raise ConfigError(f"RUNS {path}: no such folder")
    found = []
    for folder, subfolders, files in os.walk(path):
        subfolders.sort()
        if "config.yaml" in files and "progress.csv" in files:
            found.append(folder)
            subfolders.clear()
    if not found:
        raise ConfigError(f"RUNS {path}: holds no run (no config.yaml beside a progress.csv)")
    return found


def read_curve(run_dir: str) -> Curve:
    """Return the learning curve of the run in `run_dir`.

    Raises:
        ConfigError: if the folder holds no readable run, or one that was never evaluated.
    """
    config, _ = load_config(os.path.join(run_dir, "config.yaml"))
    try:
        rows = ProgressFile.read(os.path.join(run_dir, "progress.csv"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"RUNS {run_dir}: {error}") from None
    evaluated = [row for row in rows if row.eval_reward_mean is not None]
    if not evaluated:
        raise ConfigError(
            f"RUNS {run_dir}: was not evaluated yet, so it has no curve; wait, or leave it out"
        )
    x = {
        axis: np.array([getattr(row, column) for row in evaluated], np.float64)
        for axis, column in AXES.items()
    }
    reward = np.array([row.eval_reward_mean for row in evaluated], np.float64)
    if not all(np.isfinite(values).all() for values in (reward, *x.values())):
        raise ConfigError(f"RUNS {run_dir}: its progress.csv has entries that are not finite")
    if any((np.diff(values) < 0).any() for values in x.values()):
        raise ConfigError(f"RUNS {run_dir}: its progress.csv is not in order; it was changed")
    settings = {name: v for name, v in config.to_dict().items() if name not in _INCIDENTAL}
    return Curve(run_dir, config.env, config.algo, config.seed, settings, x, reward)


def group(
    curves: Sequence[Curve], labels: Sequence[str | None] | None = None
) -> tuple[list[Group], list[str]]:
    """Put together the runs that differ in nothing but their seeds.

    Groups are named by their algorithm and, where that is not enough, by the options in which
    they differ. A run that repeats another one's settings and seed is left out: being equal to
    it, it would only make the interval look narrower than it is.

    Args:
        curves: of all runs.
        labels: for each curve a name given by the user, or None. Runs with the same name and
            environment are one group, whatever their settings.

    Returns:
        The groups, in the order of the first run of each, and a note for each run left out.
    """
    names = list(labels) if labels is not None else [None] * len(curves)
    sets: dict[tuple[str, str, str], list[Curve]] = {}
    for curve, name in zip(curves, names, strict=True):
        key = repr(sorted(curve.settings.items())) if name is None else ""
        sets.setdefault((curve.env, name or "", key), []).append(curve)
    groups, notes = [], []
    for (env, name, _), members in sets.items():
        kept: dict[tuple[int, str], Curve] = {}
        for curve in members:
            # of two runs alike, the one that went further
            twin = kept.get((curve.seed, repr(curve.settings)))
            further = twin is None or curve.x["total"][-1] > twin.x["total"][-1]
            if twin is not None:
                left_out, stays = (twin, curve) if further else (curve, twin)
                notes.append(
                    f"{left_out.run_dir} repeats seed {curve.seed} of {stays.run_dir}: left out"
                )
            if further:
                kept[curve.seed, repr(curve.settings)] = curve
        rivals = [m[0] for (e, n, _), m in sets.items() if e == env and not n]
        label = name or _label(members[0], rivals)
        groups.append(Group(label, env, list(kept.values())))
    return groups, notes


def _label(curve: Curve, rivals: Iterable[Curve]) -> str:
    """Return the algorithm, and the settings in which `curve` differs from rivals that share it."""
    alike = [rival for rival in rivals if rival.algo == curve.algo]
    words = [curve.algo]
    for name in OPTIONS:
        value = curve.settings.get(name)
        if name not in ("env", "algo") and any(r.settings.get(name) != value for r in alike):
            words.append(f"{name.replace('_', ' ')} {'–' if value is None else shown(value)}")
    return ", ".join(words)


def _extent(curve: Curve, axis: str) -> tuple[float, float]:
    """Return where a curve begins and how far its last evaluation counts."""
    x = curve.x[axis]
    return float(x[0]), float(x[-1] + (x[-1] - x[-2] if x.size > 1 else 0.0))


def _values_at(curve: Curve, axis: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the step function at `x`, which lies within the curve's extent."""
    return curve.reward[np.searchsorted(curve.x[axis], x, side="right") - 1]


def average(curves: Sequence[Curve], axis: str = "total", confidence: float = 0.95) -> Band | None:
    """Average curves, with a percentile bootstrap interval of the mean over runs at each point.

    The interval is as Efron's percentile method gives it (`scipy.stats.bootstrap`), with a fixed
    seed. With one run there is none.

    Args:
        curves: at least one, of the same environment.
        axis: key of `AXES`.
        confidence: level of the interval, between 0 and 1.

    Returns:
        The band where all curves have values; None if they have no stretch in common.
    """
    extents = [_extent(curve, axis) for curve in curves]
    begin, end = max(first for first, _ in extents), min(last for _, last in extents)
    end = min(end, max(float(curve.x[axis][-1]) for curve in curves))
    if begin > end:
        return None
    points = np.concatenate([curve.x[axis] for curve in curves])
    x = np.unique(np.append(points[(points >= begin) & (points <= end)], [begin, end]))
    values = np.stack([_values_at(curve, axis, x) for curve in curves])
    mean = values.mean(axis=0)
    if len(curves) == 1:
        return Band(x, mean, mean, mean, 1)
    from scipy.stats import bootstrap

    # many points have the same values: each interval is computed once
    distinct, place = np.unique(values, axis=1, return_inverse=True)
    interval = bootstrap(
        (distinct,), np.mean, axis=0, confidence_level=confidence, method="percentile",
        n_resamples=N_RESAMPLES, batch=100, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    place = place.ravel()
    return Band(x, mean, interval.low[place], interval.high[place], len(curves))
