"""TensorBoard events of a run, written with tensorboard's own records and messages.

Neither TensorFlow nor torch is loaded: `SummaryWriter` would need the one, and tensorboard's own
`EventFileWriter` loads the other where it is installed.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Sequence
from contextlib import suppress

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from es_rl.progress import Row

__all__ = ["EventFile"]


FULL_POINTS = 5_000
"""Updates, and evaluations, of which each has its point; of later ones only some have."""


def _has_point(number: int) -> bool:
    """Return whether the `number`-th of a growing series, counted from 1, is shown.

    All of the first FULL_POINTS are, every second up to twice as many, every fourth up to four
    times as many, and so on: the file grows with the logarithm of the run, and which points are in
    it does not depend on interruptions. TensorBoard itself draws 1,000 points of a curve.
    """
    stride = 1 << ((number - 1) // FULL_POINTS).bit_length()
    return number % stride == 0


class EventFile:
    """TensorBoard events of a run, one point of each curve for each row of the first thousands.

    Args:
        folder: where to write a new file.
        rows: rows of earlier sessions, written first, so that a resumed run has one curve once
            the files of its earlier sessions are removed.
        elapsed: seconds that the run has taken so far.
        unroll_length: W to begin with, where it is adapted; None where it is not.
    """

    def __init__(
        self,
        folder: str,
        rows: Sequence[Row] = (),
        elapsed: float = 0.0,
        unroll_length: int | None = None,
    ) -> None:
        self._origin = time.time() - elapsed
        self._unroll_length, self._sequential_steps = unroll_length, 0
        name = f"events.out.tfevents.{time.time_ns()}.es_rl"
        self._records = RecordWriter(io.BufferedWriter(io.FileIO(os.path.join(folder, name), "x")))
        self._evaluations = 0
        try:
            header = Event(wall_time=self._origin, file_version="brain.Event:2")
            self._records.write(header.SerializeToString())
            for row in rows:
                self.append(row)
            self.flush()
        except BaseException:
            with suppress(OSError):
                self.close()
            raise

    def append(self, row: Row, *, sigma: float | None = None, always: bool = False) -> None:
        """Add one point to each curve; the axis is the environment steps executed in training.

        Args:
            row: of one update; rows come in order, and each of them.
            sigma: σ of the update, where it is adapted and known.
            always: add it even where later points are thinned out.
        """
        is_evaluated = row.eval_reward_mean is not None
        self._evaluations += is_evaluated
        if self._unroll_length is not None:
            if row.update > 1:  # the first one's steps include the start-up
                self._unroll_length = row.sequential_steps - self._sequential_steps
            self._sequential_steps = row.sequential_steps
        if not (
            always or _has_point(row.update) or (is_evaluated and _has_point(self._evaluations))
        ):
            return
        points = {
            "train/mean_loss": row.mean_loss,
            "train/gradient_norm": row.gradient_norm,
            "train/sigma": sigma,
            "train/unroll_length": self._unroll_length,
            "time/updates": row.update,
            "time/sequential_steps": row.sequential_steps,
            "time/episodes": row.episodes,
            "eval/mean_reward": row.eval_reward_mean,
            "eval/std_reward": row.eval_reward_std,
        }
        values = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in points.items()
            if value is not None
        ]
        event = Event(
            wall_time=self._origin + row.wall_time,
            step=row.total_steps,
            summary=Summary(value=values),
        )
        self._records.write(event.SerializeToString())

    def flush(self) -> None:
        """Let readers see everything so far."""
        self._records.flush()

    def close(self) -> None:
        """Write out and close."""
        self._records.close()
