"""Algorithms side by side: the same steps per update and in all, several seeds, one table."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from es_rl.assembly import check_environment, import_all
from es_rl.config import TrainConfig
from es_rl.config_layers import resolve
from es_rl.curves import N_RESAMPLES, Curve
from es_rl.envs.making import close_env
from es_rl.options import ALGORITHMS, WINDOWED, ConfigError, flag, inapplicable, shown
from es_rl.run_pool import Evaluated, Finished, Job, RunPool, check_same_run, final_reward
from es_rl.step_budgets import equal_pairs, preset_steps, steps_per_update

__all__ = [
    "Plan",
    "Reached",
    "Summary",
    "interquartile_mean",
    "make_plan",
    "run_jobs",
    "summarise",
]

_SET_BY_COMMAND = ("env", "algo", "seed", "n_pairs", "unroll_length", "import_modules",
                   "env_kwargs", "updates", "total_steps", "sequential_steps", "max_time",
                   "stop_at", "eval_every", "threads")  # fmt: skip
_EVALUATIONS = 20  # of each run, unless the user says how many


class Plan(NamedTuple):
    """What is to be trained.

    Attributes:
        jobs: one for each algorithm and seed.
        notes: what was chosen for the user, in words.
    """

    jobs: list[Job]
    notes: list[str]


class Reached(NamedTuple):
    """How soon a threshold was reached.

    Attributes:
        sequential: median over seeds of the sequential steps at the first evaluation at or above
            it, a seed that never was there counting as infinite; None if that is infinite.
        total: the same in total steps.
        n_runs: seeds that were there.
    """

    sequential: float | None
    total: float | None
    n_runs: int


class Summary(NamedTuple):
    """One line of the table.

    Attributes:
        algo: algorithm.
        n_pairs: N of its runs.
        steps_per_update: total environment steps of an update.
        n_runs: seeds that were finished.
        n_failed: seeds that broke off.
        reached: by threshold.
        final: interquartile mean over seeds of the final evaluation's mean reward.
        low: lower end of its bootstrap interval; None for a single seed.
        high: upper end likewise.
    """

    algo: str
    n_pairs: int
    steps_per_update: int
    n_runs: int
    n_failed: int
    reached: dict[float, Reached]
    final: float | None
    low: float | None
    high: float | None


def make_plan(
    env: str,
    algos: Sequence[str],
    seeds: Sequence[int],
    folder: str,
    *,
    n_pairs: int | None = None,
    unroll_length: int | None = None,
    total_steps: int | None = None,
    eval_every: int | None = None,
    presets: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    own_settings: Mapping[str, Mapping[str, Any]] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    import_modules: Sequence[str] = (),
    threads: int | None = None,
) -> Plan:
    """Plan runs that take equally many steps an update, and equally many in all.

    The windowed algorithms have the same window of W steps. With N pairs an update takes 2NW
    steps; TES, which unrolls three rows, has 2N/3 pairs, and FullES, whose unrolls have T steps,
    has N·W/T: 2NW again. All other settings are each algorithm's own preset for the environment;
    where that counts only the best pairs, as ARS, it is the same share of them.

    Args:
        env: environment.
        algos: algorithms.
        seeds: of the runs of each.
        folder: where the runs' folders are.
        n_pairs: N of the first algorithm of two rows and windows, or else of the first at all;
            None for that of its preset, or the nearest with which the others have whole pairs.
        unroll_length: W; None for that of the same preset.
        total_steps: budget of each run; None for the largest of the presets'.
        eval_every: updates between evaluations; None for about 20 evaluations.
        presets: by algorithm, or "" for all, the name or file of a preset.
        settings: options of all algorithms that they apply to.
        own_settings: by algorithm, options of that one.
        env_kwargs: keyword arguments of the environment.
        import_modules: modules to import first.
        threads: of each run.

    Raises:
        ConfigError: names the option, its value and the way out.
    """
    presets, settings = presets or {}, dict(settings or {})
    own_settings = own_settings or {}
    _check_settings(algos, settings, own_settings)
    import_all(tuple(import_modules))
    made = check_environment(env, dict(env_kwargs or {}))
    close_env(made, env)
    limit = made.spec.max_episode_steps if made.spec is not None else None

    def config_of(algo: str, **values: Any) -> TrainConfig:
        policy = str({**settings, **own_settings.get(algo, {})}.get("policy", "linear"))
        given = {k: v for k, v in settings.items() if inapplicable(k, algo, policy) is None}
        given.update(own_settings.get(algo, {}))
        given.update(values, env=env, algo=algo, env_kwargs=dict(env_kwargs or {}))
        given["import_modules"] = tuple(import_modules)
        config = resolve(given, preset=presets.get(algo, presets.get(""))).config
        config = config.with_horizon(limit)
        if config.horizon is None:
            raise ConfigError(
                f"--set horizon: {env} has no time limit of its own; give the steps of an episode"
            )
        return config

    windowed = [algo for algo in algos if algo in WINDOWED]
    reference = next((algo for algo in windowed if algo != "tes"), algos[0])
    windows: dict[str, int] = {}
    if windowed:
        values = {} if unroll_length is None else {"unroll_length": unroll_length}
        first = reference if reference in windowed else windowed[0]
        window = config_of(first, **values).unroll_length
        assert window is not None
        windows = dict.fromkeys(windowed, window)
    sizes: dict[str, dict[str, int]] = {
        algo: {"unroll_length": windows[algo]} if algo in windows else {} for algo in algos
    }
    bases = {algo: config_of(algo, **sizes[algo]) for algo in algos}
    for algo, n in equal_pairs(bases, reference, n_pairs).items():
        sizes[algo]["n_pairs"] = n
    notes = []
    moved, of_preset = sizes[reference]["n_pairs"], bases[reference].n_pairs
    if n_pairs is None and moved != of_preset:
        notes.append(
            f"{reference} has {moved} pairs and not its preset's {of_preset}, so that an update "
            "takes equally many steps for all"
        )
    for algo in algos:
        chosen = {**settings, **own_settings.get(algo, {})}
        top = None if "top_pairs" in chosen else _top_pairs(bases[algo], sizes[algo]["n_pairs"])
        if top is not None:
            sizes[algo]["top_pairs"] = top
            notes.append(
                f"{algo} keeps the best {top} of its {sizes[algo]['n_pairs']} pairs, about the "
                f"share of its preset's {bases[algo].top_pairs} of {bases[algo].n_pairs}"
            )
    configs = {algo: config_of(algo, **sizes[algo]) for algo in algos}
    budget = total_steps if total_steps is not None else max(map(preset_steps, configs.values()))
    every = eval_every
    if every is None:
        every = max(1, budget // (steps_per_update(configs[algos[0]]) * _EVALUATIONS))
    jobs = []
    for seed in seeds:
        for algo in algos:
            values = {**sizes[algo], "seed": seed, "total_steps": budget, "eval_every": every}
            if threads is not None:
                values["threads"] = threads
            config = config_of(algo, **values)
            job = Job(config, os.path.join(folder, f"{algo}-seed{seed}"))
            jobs.append(job._replace(config=check_same_run(job, f"--dir {folder}")))
    return Plan(jobs, notes)


def _top_pairs(preset: TrainConfig, n_pairs: int) -> int | None:
    """Return the preset's share of best pairs among `n_pairs`; None if nothing has to change."""
    if preset.top_pairs is None or n_pairs == preset.n_pairs:
        return None
    return max(1, round(preset.top_pairs * n_pairs / preset.n_pairs))


def _check_settings(
    algos: Sequence[str],
    settings: Mapping[str, Any],
    own_settings: Mapping[str, Mapping[str, Any]],
) -> None:
    """Refuse settings that the comparison decides, or that no algorithm takes."""
    for algo in own_settings:
        if algo not in algos:
            raise ConfigError(f"--set {algo}: is not compared; add it to --algos")
    for values in (settings, *own_settings.values()):
        for name, value in values.items():
            if name in _SET_BY_COMMAND:
                raise ConfigError(
                    f"--set {name}={shown(value)}: is decided for all runs alike; use the "
                    f"command's own {flag(name)} if it has it"
                )
    policy = str(settings.get("policy", "linear"))
    for name, value in settings.items():
        reasons = [inapplicable(name, algo, policy) for algo in algos]
        if all(reason is not None for reason in reasons):
            raise ConfigError(f"--set {name}={shown(value)}: {reasons[0]}")


def run_jobs(
    jobs: Sequence[Job],
    n_workers: int,
    *,
    on_event: Callable[[Evaluated | Finished], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Finished]:
    """Train what is not finished yet.

    Args:
        jobs: the runs.
        n_workers: runs at a time.
        on_event: called with what happens, the runs that were finished before first.
        should_stop: asked often; True saves all runs and ends.

    Returns:
        How each run that was begun or finished ended.
    """
    ended: list[Finished] = []
    waiting: deque[Job] = deque()
    for job in jobs:
        reward = final_reward(job)
        if reward is None:
            waiting.append(job)
        else:
            ended.append(Finished(job, "total_steps", reward))
            on_event(ended[-1])
    with RunPool(n_workers) as pool:

        def fill() -> None:
            while waiting and pool.has_room and not should_stop():
                pool.start(waiting.popleft())

        fill()
        for event in pool.events(should_stop):
            if isinstance(event, Finished):
                ended.append(event)
                fill()
            on_event(event)
    return ended


def interquartile_mean(
    values: Sequence[float], confidence: float = 0.95
) -> tuple[float, float | None, float | None]:
    """Return the mean of the middle half, and its percentile bootstrap interval.

    A quarter of the values, rounded down, is left out at either end (`scipy.stats.trim_mean`).

    Args:
        values: at least one.
        confidence: level of the interval.

    Returns:
        (mean, low, high); low and high are None for a single value.
    """
    from scipy.stats import bootstrap, trim_mean

    array = np.asarray(values, np.float64)
    middle = float(trim_mean(array, 0.25))
    if array.size == 1:
        return middle, None, None
    interval = bootstrap(
        (array,), lambda x, axis: trim_mean(x, 0.25, axis=axis), vectorized=True,
        confidence_level=confidence, method="percentile", n_resamples=N_RESAMPLES,
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return middle, float(interval.low), float(interval.high)


def _first_at(curve: Curve, axis: str, threshold: float) -> float:
    """Return where a curve is first at or above the threshold; infinite if it never is."""
    there = np.flatnonzero(curve.reward >= threshold)
    return float(curve.x[axis][there[0]]) if there.size else math.inf


def _median(values: Sequence[float]) -> float | None:
    median = float(np.median(values))
    return median if math.isfinite(median) else None


def summarise(
    algo: str,
    configs: Sequence[TrainConfig],
    curves: Sequence[Curve],
    thresholds: Sequence[float],
    *,
    n_failed: int = 0,
    confidence: float = 0.95,
) -> Summary:
    """Return an algorithm's line of the table.

    Args:
        algo: algorithm.
        configs: of its runs, at least one.
        curves: of its finished runs.
        thresholds: rewards.
        n_failed: runs that broke off.
        confidence: level of the interval.
    """
    reached = {}
    for threshold in thresholds:
        at = {a: [_first_at(c, a, threshold) for c in curves] for a in ("sequential", "total")}
        n_there = sum(math.isfinite(steps) for steps in at["total"])
        medians = {axis: _median(steps) if steps else None for axis, steps in at.items()}
        reached[threshold] = Reached(medians["sequential"], medians["total"], n_there)
    final = low = high = None
    if curves:
        final, low, high = interquartile_mean([float(c.reward[-1]) for c in curves], confidence)
    config = configs[0]
    assert algo in ALGORITHMS
    return Summary(
        algo, config.n_pairs, steps_per_update(config), len(curves), n_failed, reached,
        final, low, high,
    )  # fmt: skip
