"""The checkpoints of one run: their files, and what each holds beside the trainer's state."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from es_rl.checkpoint import load_checkpoint
from es_rl.files import DamagedFileError
from es_rl.normalization import Normalizer
from es_rl.options import ConfigError
from es_rl.progress import Row
from es_rl.tasks import State

__all__ = [
    "FOLDER", "Best", "Checkpoint", "checkpoint_file", "checkpoint_files", "parts_of",
    "read_checkpoint",
]  # fmt: skip

_NAME = re.compile(r"update-(\d{10})\.npz")
FOLDER = "checkpoints"
"""Of a run's folder: where its checkpoints are."""


class Best(NamedTuple):
    """The best evaluated policy so far.

    Attributes:
        update: updates it had seen.
        total_steps: environment steps it had seen.
        sequential_steps: sequential steps it had seen.
        mean: its evaluated mean reward.
        theta: (d,) float64, its parameters.
        normalizer: what it normalises observations with; None if it does not.
    """

    update: int
    total_steps: int
    sequential_steps: int
    mean: float
    theta: NDArray[np.float64]
    normalizer: Normalizer | None = None


class Checkpoint(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        path: its file.
        update: updates made.
        elapsed: seconds the run had taken.
        evaluation_steps: environment steps of all evaluations.
        row: the row of the last update; None before the first.
        best: the best policy; None before the first evaluation.
        state: everything that the trainer needs to go on.
    """

    path: str
    update: int
    elapsed: float
    evaluation_steps: int
    row: Row | None
    best: Best | None
    state: State


def checkpoint_file(run_dir: str, update: int) -> str:
    """Return the path of the checkpoint that a run writes after `update` updates."""
    return os.path.join(run_dir, FOLDER, f"update-{update:010d}.npz")


def checkpoint_files(run_dir: str) -> list[str]:
    """Return the paths of a run's checkpoints, oldest first."""
    folder = os.path.join(run_dir, FOLDER)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return [os.path.join(folder, n) for n in sorted(names) if _NAME.fullmatch(n)]


def parts_of(
    elapsed: float, evaluation_steps: int, row: Row | None, best: Best | None
) -> tuple[dict[str, Any], State]:
    """Return what a checkpoint holds beside the trainer's state: facts for JSON, and arrays.

    Args:
        elapsed: as in `Checkpoint`, like the others.
        evaluation_steps: environment steps of all evaluations.
        row: of the last update.
        best: the best policy.
    """
    extra: dict[str, Any] = {
        "elapsed": elapsed,
        "evaluation_steps": evaluation_steps,
        "row": None if row is None else row.line(),
    }
    arrays: State = {}
    if best is not None:
        told = best._asdict()
        del told["theta"], told["normalizer"]
        extra["best"] = told
        arrays["best_theta"] = best.theta
        if best.normalizer is not None:
            arrays["best_mean"], arrays["best_scale"] = best.normalizer
    return extra, arrays


def _checkpoint_of(path: str, extra: dict[str, Any], state: State) -> Checkpoint:
    """Return what the file at `path` holds, in its parts.

    Args:
        path: of the checkpoint.
        extra: the facts that stand in it.
        state: its arrays; those of the best policy are taken out.

    Raises:
        ValueError: if they are not what a run writes.
    """
    try:
        best = None
        if "best" in extra:
            told = {**extra["best"], "theta": state.pop("best_theta")}
            if "best_mean" in state:
                told["normalizer"] = Normalizer(state.pop("best_mean"), state.pop("best_scale"))
            best = Best(**told)
        return Checkpoint(
            path=path,
            update=int(state["counters"][0]),
            elapsed=float(extra["elapsed"]),
            evaluation_steps=int(extra["evaluation_steps"]),
            row=None if extra["row"] is None else Row.from_line(extra["row"]),
            best=best,
            state=state,
        )
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{path}: is no checkpoint of a run ({type(error).__name__}: {error})"
        ) from error


def _leave(path: str, error: DamagedFileError) -> None:
    """Let a damaged file be."""


def read_checkpoint(
    run_dir: str, given: str, at_damaged: Callable[[str, DamagedFileError], None] = _leave
) -> Checkpoint | None:
    """Return the newest whole checkpoint of a run; None if none is.

    Nothing is written, and a process may be training in the folder meanwhile.

    Args:
        run_dir: the run's folder.
        given: what the user gave to get here, which errors begin with.
        at_damaged: called with the path of each newer checkpoint that is damaged, and what is
            wrong with it.

    Raises:
        ConfigError: if the newest whole one is no checkpoint of a run, or of another version.
    """
    for path in reversed(checkpoint_files(run_dir)):
        try:
            return _checkpoint_of(path, *load_checkpoint(path))
        except DamagedFileError as error:
            at_damaged(path, error)
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise ConfigError(f"{given}: {error}") from error
    return None
