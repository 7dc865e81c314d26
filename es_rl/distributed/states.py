"""Between the state of one estimator that holds all pairs and those of its shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl.distributed.shares import Share
from es_rl.drift import PATH
from es_rl.tasks import State, state_part
from es_rl.worker_state import PER_PAIR, PER_ROW, TASK_PREFIX

__all__ = ["cut_states", "join_states"]

_PER_PAIR = (*PER_PAIR, PATH)

_RAGGED = {"offsets": ("actions",)}
"""Of a task's state: row i owns entries first[i] to first[i + 1] - 1 of the second."""


def join_states(
    shares: Sequence[Share], states: Sequence[Mapping[str, NDArray[Any]]], rows_per_pair: int
) -> State:
    """Return the state of one estimator that holds all pairs, from those of the shares.

    Raises:
        ValueError: if a task's state is not made of arrays whose first axis is the rows.
    """
    n_pairs = shares[-1].held.stop
    rows = [share.rows(n_pairs, rows_per_pair) for share in shares]
    joined: State = {}
    for name in states[0]:
        values = [state[name] for state in states]
        if name in _PER_PAIR:
            joined[name] = np.concatenate(values)
        elif name in PER_ROW:
            joined[name] = _scattered(rows, values)
        elif not name.startswith(TASK_PREFIX):
            # settings and statistics, which all shares have in common
            if any(not np.array_equal(values[0], value) for value in values[1:]):
                raise ValueError(f"the workers disagree about {name!r}")
            joined[name] = values[0]
    tasks = [state_part(state, TASK_PREFIX) for state in states]
    for name, value in _join_tasks(rows, tasks).items():
        joined[TASK_PREFIX + name] = value
    return joined


def cut_states(
    shares: Sequence[Share], state: Mapping[str, NDArray[Any]], rows_per_pair: int
) -> list[State]:
    """Return the shares' states, from that of one estimator that holds all pairs.

    Raises:
        ValueError: as in `join_states`, or if the state is one of another number of pairs.
    """
    n_pairs = shares[-1].held.stop
    n_rows = n_pairs * rows_per_pair
    lengths = {**dict.fromkeys(_PER_PAIR, n_pairs), **dict.fromkeys(PER_ROW, n_rows)}
    for name, n in lengths.items():
        if name in state and len(state[name]) != n:
            raise ValueError(
                f"the state is of an estimator with other settings: {name!r} has length "
                f"{len(state[name])}, here it is {n}"
            )
    task = state_part(state, TASK_PREFIX)
    result = []
    for share in shares:
        rows = share.rows(n_pairs, rows_per_pair)
        own: State = {}
        for name, value in state.items():
            if name in _PER_PAIR:
                own[name] = value[share.held]
            elif name in PER_ROW:
                own[name] = value[rows]
            elif not name.startswith(TASK_PREFIX):
                own[name] = value
        own.update(
            {TASK_PREFIX + name: value for name, value in _cut_task(rows, task, n_rows).items()}
        )
        result.append(own)
    return result


def _scattered(rows: Sequence[NDArray[np.int64]], values: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return the array whose entries `rows[k]` are `values[k]`."""
    joined = np.concatenate(values)
    result = np.empty_like(joined)
    result[np.concatenate(rows)] = joined
    return result


def _companions(task: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Return the names of the ragged arrays that are there, each with that of its offsets."""
    return {
        name: offsets
        for offsets, names in _RAGGED.items()
        if offsets in task
        for name in names
        if name in task
    }


def _check_rows(name: str, value: NDArray[Any], n_rows: int) -> None:
    if value.ndim == 0 or len(value) != n_rows:
        raise ValueError(
            f"{name!r} of the task's state has shape {value.shape}, and there are {n_rows} rows: "
            "pairs can be spread over workers only if the first axis of every array is the rows"
        )


def _join_tasks(rows: Sequence[NDArray[np.int64]], tasks: Sequence[State]) -> State:
    joined: State = {}
    ragged = _companions(tasks[0])
    for name in tasks[0]:
        if name in ragged or name in ragged.values():
            continue
        values = [task[name] for task in tasks]
        for own, value in zip(rows, values, strict=True):
            _check_rows(name, value, own.size)
        joined[name] = _scattered(rows, values)
    for name, offsets in ragged.items():
        entries: list[NDArray[Any]] = [np.empty(0)] * sum(own.size for own in rows)
        for own, task in zip(rows, tasks, strict=True):
            for row, entry in zip(own, np.split(task[name], task[offsets][1:-1]), strict=True):
                entries[row] = entry
        joined[offsets] = np.cumsum([0, *(len(entry) for entry in entries)])
        joined[name] = np.concatenate(entries)
    return joined


def _cut_task(rows: NDArray[np.int64], task: State, n_rows: int) -> State:
    own: State = {}
    ragged = _companions(task)
    for name, value in task.items():
        if name in ragged or name in ragged.values():
            continue
        _check_rows(name, value, n_rows)
        own[name] = value[rows]
    for name, offsets in ragged.items():
        entries = np.split(task[name], task[offsets][1:-1])
        own[offsets] = np.cumsum([0, *(len(entries[row]) for row in rows)])
        own[name] = np.concatenate([entries[row] for row in rows])
    return own
