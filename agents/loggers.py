"""Logs that go on as one curve when training is resumed."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from stable_baselines3.common.logger import (
    CSVOutputFormat,
    HumanOutputFormat,
    JSONOutputFormat,
    Logger,
    TensorBoardOutputFormat,
    configure,
)
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecMonitor
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

__all__ = ["begin_session", "monitor_writer", "resume_logger"]

_STEPS = "time/total_timesteps"


def resume_logger(
    folder: str | os.PathLike[str], format_strings: Sequence[str], num_timesteps: int
) -> Logger:
    """Return a logger that goes on with the logs in `folder`, for an agent that was loaded.

    Stable-Baselines3's own `configure` begins all files anew. Here the rows of progress.csv and
    the lines of progress.json stay, up to the agent's step; later ones, of a run that went on
    after the agent was saved, are dropped, and TensorBoard is told to pass over theirs. log.txt,
    which is for reading, stays whole and grows.

    Args:
        folder: where the logs are.
        format_strings: as for `configure`: "stdout", "log", "json", "csv", "tensorboard".
        num_timesteps: the agent's `num_timesteps`.
    """
    keys, rows = _csv_rows(os.path.join(folder, "progress.csv"), num_timesteps)
    lines = _json_lines(os.path.join(folder, "progress.json"), num_timesteps)
    text = _text(os.path.join(folder, "log.txt"))
    logger = configure(os.fspath(folder), list(format_strings))
    for output in logger.output_formats:
        if isinstance(output, CSVOutputFormat) and rows:
            output.keys = keys
            writer = csv.DictWriter(output.file, keys, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            output.file.flush()
        elif isinstance(output, JSONOutputFormat):
            output.file.writelines(lines)
            output.file.flush()
        elif isinstance(output, HumanOutputFormat) and output.own_file:
            # `configure` has told there, as on the console, where it logs to
            output.file.seek(0)
            output.file.truncate()
            output.file.write(text)
            output.file.flush()
    begin_session(logger, num_timesteps)
    return logger


def begin_session(logger: Logger, num_timesteps: int) -> None:
    """Tell TensorBoard that events after `num_timesteps` written so far are void."""
    for output in logger.output_formats:
        if isinstance(output, TensorBoardOutputFormat):
            start = SessionLog(status=SessionLog.START)
            event = Event(step=num_timesteps + 1, session_log=start)
            output.writer.file_writer.add_event(event)


def monitor_writer(env: VecEnv | None) -> Callable[[dict[str, Any]], None]:
    """Return what writes an episode to the monitor file of `env`, if it has one.

    Training does not step `env`, so its Monitor sees nothing by itself.
    """
    layer = env
    while isinstance(layer, VecEnvWrapper):
        if isinstance(layer, VecMonitor) and layer.results_writer is not None:
            return _rounded(layer.results_writer.write_row)
        layer = layer.venv
    if isinstance(layer, DummyVecEnv):
        for wrapped in layer.envs:
            inner: Any = wrapped
            while hasattr(inner, "env"):
                if isinstance(inner, Monitor) and inner.results_writer is not None:
                    return _rounded(inner.results_writer.write_row)
                inner = inner.env
    return lambda info: None


def _rounded(write: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    return lambda info: write({**info, "r": round(info["r"], 6)})


def _text(path: str) -> str:
    """Return what a file holds; nothing where there is none."""
    if not os.path.isfile(path):
        return ""
    with open(path, newline="", encoding="utf-8") as stream:
        return stream.read()


def _csv_rows(path: str, num_timesteps: int) -> tuple[list[str], list[dict[str, str]]]:
    """Return the keys of a CSV log, and its rows up to a step."""
    reader = csv.DictReader(io.StringIO(_text(path), newline=""))
    rows = [row for row in reader if _step(row) <= num_timesteps]
    return list(reader.fieldnames or ()), rows


def _json_lines(path: str, num_timesteps: int) -> list[str]:
    """Return the lines of a JSON log up to a step, without one that was broken off."""
    kept = []
    for line in _text(path).splitlines(keepends=True):
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            if line.endswith("\n") and isinstance(row, dict) and _step(row) <= num_timesteps:
                kept.append(line)
    return kept


def _step(row: dict[str, Any]) -> int:
    return int(float(row.get(_STEPS) or 0))
