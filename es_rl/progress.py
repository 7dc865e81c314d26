"""progress.csv: one line for each update of a run."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Sequence
from typing import NamedTuple

from es_rl.files import write_text

__all__ = ["COLUMNS", "ProgressFile", "Row"]


class Row(NamedTuple):
    """What progress.csv tells of one update; counts are those of the whole run so far.

    Attributes:
        update: updates made.
        sequential_steps: steps that had to happen one after another.
        total_steps: environment steps executed in training.
        evaluation_steps: environment steps executed in evaluations, counted apart.
        wall_time: seconds of training and evaluating, all sessions of the run together.
        mean_loss: mean loss per step of the perturbed rows in this update's window.
        gradient_norm: Euclidean norm of the gradient estimate.
        episodes: training episodes (of pairs) that ended.
        eval_reward_mean: mean reward of the evaluation after this update; None if there was none.
        eval_reward_std: standard deviation over its episodes; None likewise.
    """

    update: int
    sequential_steps: int
    total_steps: int
    evaluation_steps: int
    wall_time: float
    mean_loss: float
    gradient_norm: float
    episodes: int
    eval_reward_mean: float | None = None
    eval_reward_std: float | None = None

    def line(self) -> str:
        """Return the row as a line of CSV; floats as Python writes them, so they round-trip."""
        return ",".join("" if value is None else repr(value) for value in self) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Row:
        """Return the row that `line` holds.

        Raises:
            ValueError: if it is no such line.
        """
        words = line.rstrip("\n").split(",")
        if len(words) != len(COLUMNS):
            raise ValueError(f"{len(words)} columns where {len(COLUMNS)} belong")
        update, sequential, total, evaluation, wall, loss, norm, episodes, mean, std = words
        return cls(
            int(update), int(sequential), int(total), int(evaluation), float(wall), float(loss),
            float(norm), int(episodes), float(mean) if mean else None, float(std) if std else None,
        )  # fmt: skip


COLUMNS: tuple[str, ...] = Row._fields
"""The columns of progress.csv."""


class ProgressFile:
    """progress.csv, open for appending.

    Args:
        path: of the file.
        rows: what it holds to begin with; the file is written anew, whole, with these.
    """

    def __init__(self, path: str, rows: Sequence[Row] = ()) -> None:
        write_text(path, ",".join(COLUMNS) + "\n" + "".join(row.line() for row in rows))
        # unbuffered: a line is in the file, whole, as soon as its update is done
        self._file = io.FileIO(path, "ab")

    def append(self, row: Row) -> None:
        """Add one line.

        Raises:
            OSError: if it did not fit on the disk; the part that did is no line, and is left out
                by `read`.
        """
        line = row.line().encode()
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sync(self) -> None:
        """Make sure that a power failure does not take lines that were written."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @staticmethod
    def read(path: str) -> list[Row]:
        """Return the rows of a progress.csv; a last line that was torn by a crash is left out.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is no progress.csv.
        """
        with open(path, encoding="utf-8", newline="\n") as file:
            header, *lines = file.read().split("\n")[:-1] or [""]
        if header != ",".join(COLUMNS):
            raise ValueError(f"{path}: its header is {header!r}, not that of a progress.csv")
        return [Row.from_line(line) for line in lines]
