"""The last lines of `es-rl train`: what came out, and what to do next."""

from __future__ import annotations

import math
import os
import shlex
import sys
from typing import Any

from es_rl.cli.display import reward_text, time_text
from es_rl.options import flag
from es_rl.run import RunResult

__all__ = ["describe", "facts", "fail"]


def describe(result: RunResult) -> list[str]:
    """Return the result of a run and the commands that come next."""
    lines = [
        "",
        f"{_ending(result)} {result.updates:,} updates · {result.total_steps:,} total steps · "
        f"{result.sequential_steps:,} sequential steps · {result.evaluation_steps:,} evaluation "
        f"steps · {time_text(result.wall_time)}",
    ]
    if result.final is not None:
        reward = reward_text(result.final.mean, result.final.std)
        lines.append(f"final policy  {reward} over {result.final.rewards.size} episodes")
    if result.best is not None:
        lines.append(
            f"best policy   {reward_text(result.best.mean)} at update {result.best.update:,}"
        )
    folder = shlex.quote(result.run_dir)
    lines += ["", "next:"]
    if result.best is not None or result.reason != "interrupted":
        lines.append(f"  es-rl evaluate {folder}")
    lines.append(f"  es-rl resume {folder}{_larger_budget(result)}")
    return lines


def facts(result: RunResult) -> dict[str, Any]:
    """Return the result of a run for a program, as plain values."""
    final, best = result.final, result.best
    config = result.config
    return {
        "run_dir": result.run_dir,
        "env": config.env,
        "algo": config.algo,
        "seed": config.seed,
        "ended_by": result.reason,
        "updates": result.updates,
        "sequential_steps": result.sequential_steps,
        "total_steps": result.total_steps,
        "evaluation_steps": result.evaluation_steps,
        "wall_time": result.wall_time,
        "final": None if final is None else {
            "reward_mean": final.mean, "reward_std": final.std, "episodes": final.rewards.size,
        },
        "best": None if best is None else {"reward_mean": best.mean, "update": best.update},
    }  # fmt: skip


def _ending(result: RunResult) -> str:
    if result.reason == "interrupted":
        return "stopped and saved:"
    if result.reason == "stop_at":
        return f"reached --stop-at {result.config.stop_at:g}:"
    return f"finished ({flag(result.reason)} {getattr(result.config, result.reason):,}):"


def _larger_budget(result: RunResult) -> str:
    """Return the option that lets the run go on from where it ended."""
    if result.reason == "interrupted":
        return ""
    limit = getattr(result.config, result.reason)
    # a run that goes on with a smaller budget than it has used up ends beyond it at once
    if result.reason == "stop_at":
        reached = max(limit, limit if result.best is None else result.best.mean)
        return f" --stop-at {reached + max(abs(reached) * 0.1, 1.0):g}"
    if result.reason == "max_time":
        return f" --max-time {math.ceil(2 * max(limit, result.wall_time))}"
    return f" {flag(result.reason)} {2 * max(limit, getattr(result, result.reason))}"


def fail(reason: object, run_dir: str | None, code: int = 1) -> int:
    """Say on stderr why training broke off and what is left of it; return the exit code."""
    text = " ".join(str(reason).split())
    if run_dir is not None:
        folder = os.path.join(run_dir, "checkpoints")
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        whole = [name for name in names if name.endswith(".npz")]
        if whole:
            text += f"; the last checkpoint stands: {os.path.join(folder, whole[-1])}"
    print(f"error: {text}", file=sys.stderr)
    return code
