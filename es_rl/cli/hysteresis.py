"""`es-rl hysteresis`: what it does to a run's gradients that θ moves during its episodes."""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from es_rl.cli.policy_source import read
from es_rl.option_kinds import Integer
from es_rl.options import OPTIONS, RAY_OPTIONS, WINDOWED, ConfigError, parse_value

if TYPE_CHECKING:
    from es_rl.config import TrainConfig
    from es_rl.hysteresis import Comparison, Summary
    from es_rl.variance_interval import Interval

__all__ = ["hysteresis"]

_CONFIDENCE = 0.95


def hysteresis(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of the run.")],
    windows: Annotated[
        str, typer.Option(metavar="INTEGER", help="Windows, so updates, to train on for.")
    ] = "20",
    threads: Annotated[
        str | None,
        typer.Option(metavar=OPTIONS["threads"].kind.metavar, help=OPTIONS["threads"].help),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, every window in it.")
    ] = False,
) -> int:
    """Measure what the motion of θ during the episodes does to a run's gradients.

    Goes on training from the last checkpoint, in memory alone: the run's folder stays as it is.
    Each window is compared with its fresh twin, whose episodes were unrolled again under today's θ.
    """
    n_windows: int = read("--windows", Integer(1), windows)
    n_threads = None if threads is None else parse_value("threads", threads)
    config = _config_of(run, n_threads)

    from es_rl.envs.mujoco.quiet import quiet

    with quiet():
        first, comparisons = _measure(config, run, n_windows)
    assert config.unroll_length is not None

    from es_rl.hysteresis import summarize

    summary = summarize(
        comparisons,
        unroll_length=config.unroll_length,
        horizon=config.horizon,
        confidence=_CONFIDENCE,
    )
    if as_json:
        print(json.dumps(_facts(config, run, first, comparisons, summary), indent=2))
    else:
        _print(config, run, first, comparisons, summary)
    return 0


def _config_of(run: str, threads: int | None) -> TrainConfig:
    """Return the run's config, for this process alone.

    Raises:
        ConfigError: if there is no run, or none that has hysteresis.
    """
    from es_rl.config_layers import load_config

    if not os.path.isfile(os.path.join(run, "config.yaml")):
        raise ConfigError(f"RUN {run}: holds no run (it has no config.yaml); name a run's folder")
    config, _ = load_config(os.path.join(run, "config.yaml"))
    if config.algo not in WINDOWED:
        raise ConfigError(
            f"RUN {run}: {config.algo} begins every episode under today's θ and has no hysteresis; "
            f"name a run of {', '.join(WINDOWED)}"
        )
    if config.engine == "ray":
        # checkpoints are the same, and so are results
        here: dict[str, Any] = {"engine": "auto", "threads": None, **dict.fromkeys(RAY_OPTIONS)}
        config = replace(config, **here)
    return config if threads is None else replace(config, threads=threads)


def _measure(config: TrainConfig, run: str, n_windows: int) -> tuple[int, list[Comparison]]:
    """Return the update that training goes on from, and the comparisons of the next windows."""
    from es_rl.assembly import assemble
    from es_rl.cli.output import progress_bar
    from es_rl.envs.faults import EnvironmentFaultError
    from es_rl.hysteresis import HysteresisMeter
    from es_rl.run_checkpoints import read_checkpoint
    from es_rl.starts import config_under_way
    from es_rl.workers import Estimator

    checkpoint = read_checkpoint(run, f"RUN {run}")
    if checkpoint is None:
        raise ConfigError(
            f"RUN {run}: has no whole checkpoint to go on from; start it with es-rl resume {run}"
        )
    progress = progress_bar(shown=sys.stderr.isatty())
    with assemble(config_under_way(config, checkpoint.state)) as assembly, progress:
        trainer = assembly.trainer
        assert isinstance(trainer.estimator, Estimator)
        meter = trainer.estimator = HysteresisMeter(trainer.estimator)
        try:
            trainer.load_state_dict(checkpoint.state)
        except ValueError as error:
            raise ConfigError(f"RUN {run}: {checkpoint.path}: {error}") from error
        try:
            for _ in progress.track(range(n_windows), description="windows"):
                trainer.update()
        except (FloatingPointError, EnvironmentFaultError) as error:
            done = trainer.updates - checkpoint.update
            reason = str(error).partition("\n")[0]
            raise ConfigError(f"--windows {n_windows}: after {done} of them, {reason}") from error
    return checkpoint.update, meter.comparisons


def _facts(
    config: TrainConfig, run: str, first: int, comparisons: list[Comparison], summary: Summary
) -> dict[str, Any]:
    """Return everything as values that JSON can hold: null for what is not defined."""

    def number(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    def ends(interval: Interval | None) -> list[float] | None:
        return None if interval is None else [interval.low, interval.high]

    return {
        "run_dir": run, "env": config.env, "algo": config.algo, "seed": config.seed,
        "update": first, "unroll_length": config.unroll_length, "horizon": config.horizon,
        "sigma": config.sigma, "n_pairs": config.n_pairs, "refresh_drift": config.refresh_drift,
        "windows": [
            {
                "update": first + number_of, "cosine": number(one.cosine),
                "relative_difference": number(one.relative_difference),
                "gradient": one.estimate.gradient.tolist(), "fresh_gradient": one.fresh.tolist(),
                "extra_sequential_steps": one.extra_sequential_steps,
                "extra_total_steps": one.extra_total_steps,
            }
            for number_of, one in enumerate(comparisons, 1)
        ],
        "cosine": number(summary.cosine),
        "relative_difference": number(summary.relative_difference),
        "bias": number(summary.bias), "bias_interval": ends(summary.bias_interval),
        "along": number(summary.along), "along_interval": ends(summary.along_interval),
        "confidence": _CONFIDENCE,
        "ages": [
            {**group._asdict(), "relative_difference": number(group.relative_difference)}
            for group in summary.ages
        ],
        "extra_total_steps": summary.extra_total_steps,
    }  # fmt: skip


def _print(
    config: TrainConfig, run: str, first: int, comparisons: list[Comparison], summary: Summary
) -> None:
    from es_rl.cli.tables import print_table

    print(
        f"{config.env} · {config.algo} · seed {config.seed} · W {config.unroll_length} · "
        f"T {config.horizon:,} · N {config.n_pairs:,} · {run} from update {first:,}\n"
    )
    print_table(
        ("update", "cosine", "difference", "extra steps"),
        [
            (f"{update:,}", f"{one.cosine:.4f}", _percent(one.relative_difference),
             f"{one.extra_total_steps:,}")
            for update, one in enumerate(comparisons, first + 1)
        ],
    )  # fmt: skip
    print()
    print_table(
        ("age of the episode", "pairs' windows", "difference"),
        [
            (f"{age.first:,}" if age.first == age.last else f"{age.first:,} to {age.last:,}",
             f"{age.n:,}", _percent(age.relative_difference))
            for age in summary.ages
        ],
    )  # fmt: skip
    print(f"\neach window     cosine {summary.cosine:.4f}, difference "
          f"{_percent(summary.relative_difference)}, scatter included")  # fmt: skip
    if math.isnan(summary.bias):
        print("mean gradient   does not stand out from the scatter; give more --windows")
    else:
        print(f"mean gradient   off by {_percent(summary.bias)}{_between(summary.bias_interval)}")
        print(f"its length      {_percent(summary.along)} along the fresh one"
              f"{_between(summary.along_interval)}")  # fmt: skip
    print(f"extra steps     {summary.extra_total_steps:,}, in no run's count")


def _between(interval: Interval | None) -> str:
    if interval is None:
        return "; an interval needs more --windows"
    return f"; 95 % interval {_percent(interval.low)} to {_percent(interval.high)}"


def _percent(share: float) -> str:
    """Return a share as a percentage with two digits that count."""
    if math.isnan(share):
        return "–"
    size = abs(100.0 * share)
    return f"{100.0 * share:.{0 if size >= 10 else 1 if size >= 1 else 2}f} %"
