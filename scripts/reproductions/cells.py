"""The parts that a figure is computed from: each is run once, stored, and never run again.

A cell is one call of a module's function with plain settings, such as one training run with one
seed. It is stored whole or not at all, so that an interrupted figure goes on where it was.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl.files import read_npz, write_npz

__all__ = ["Cell", "CellFunction", "compute"]

CellFunction = Callable[..., Mapping[str, Any]]
"""A function at the top of a module: keyword settings → arrays and numbers by name."""

_FORMAT = "reproduction cell"


@dataclass(frozen=True)
class Cell:
    """What one call gave.

    Attributes:
        settings: the call's keyword arguments.
        arrays: the results by name; numbers are arrays of no dimension.
        seconds: processor time of the call.
    """

    settings: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    seconds: float

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    def number(self, name: str) -> float:
        """Return the result `name`, which is a single number."""
        return float(self.arrays[name])


@lru_cache
def _fingerprint(function: CellFunction) -> str:
    """Return a hash of the function's source, as it was when it was first asked for."""
    return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()


def _key(function: CellFunction, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes a stored cell the answer to this call: a changed function is another."""
    name = f"{function.__module__}.{function.__qualname__}"
    return {"function": name, "source": _fingerprint(function), "settings": dict(settings)}


def _path(folder: str, key: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return os.path.join(folder, f"{digest[:24]}.npz")


def _run(function: CellFunction, settings: dict[str, Any], folder: str) -> Cell:
    """Call `function`, store what it gives and return it."""
    begin = time.process_time()
    results = function(**settings)
    seconds = time.process_time() - begin
    arrays = {name: np.asarray(value) for name, value in results.items()}
    key = _key(function, settings)
    header = {"format": _FORMAT, "version": 1, "key": key, "seconds": seconds}
    write_npz(_path(folder, key), header, arrays)
    return Cell(settings, arrays, seconds)


def _stored(function: CellFunction, settings: dict[str, Any], folder: str) -> Cell | None:
    path = _path(folder, _key(function, settings))
    if not os.path.exists(path):
        return None
    header, arrays = read_npz(path, _FORMAT, 1)
    return Cell(settings, arrays, float(header["seconds"]))


def compute(
    function: CellFunction,
    cases: Sequence[Mapping[str, Any]],
    folder: str,
    *,
    n_jobs: int = 1,
    on_cell: Callable[[Cell, int, int], None] = lambda cell, done, of: None,
) -> list[Cell]:
    """Return the cells of all `cases`, in their order; those that are stored are not run.

    Args:
        function: at the top of a module, so that another process can find it.
        cases: settings of each call, of types that JSON knows.
        folder: where cells are stored.
        n_jobs: processes; 1 computes in this one.
        on_cell: told of each cell, how many are done, and of how many.

    Raises:
        TypeError: if a case cannot be written as JSON.
    """
    os.makedirs(folder, exist_ok=True)
    plain = [dict(case) for case in cases]
    cells = [_stored(function, settings, folder) for settings in plain]
    missing = [i for i, cell in enumerate(cells) if cell is None]
    done = 0
    for cell in cells:
        if cell is not None:
            done += 1
            on_cell(cell, done, len(cells))
    for i, cell in _computed(function, plain, missing, folder, n_jobs):
        cells[i] = cell
        done += 1
        on_cell(cell, done, len(cells))
    return [cell for cell in cells if cell is not None]


def _computed(
    function: CellFunction,
    cases: Sequence[dict[str, Any]],
    missing: Sequence[int],
    folder: str,
    n_jobs: int,
) -> Iterator[tuple[int, Cell]]:
    if n_jobs == 1 or len(missing) < 2:
        for i in missing:
            yield i, _run(function, cases[i], folder)
        return
    # threads of a forked process may hold locks: start fresh interpreters
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(n_jobs, len(missing)), mp_context=context) as pool:
        places: dict[Future[Cell], int] = {
            pool.submit(_run, function, cases[i], folder): i for i in missing
        }
        try:
            for future in as_completed(places):
                yield places[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
