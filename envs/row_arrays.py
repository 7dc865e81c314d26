"""Rows kept as slices of named arrays: what the compiled tasks share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from es_rl.option_kinds import Integer, Kind, Real
from es_rl.option_messages import shown
from es_rl.tasks import RowNotResetError, State

__all__ = ["RowArrays", "checked", "positive_integer", "positive_number"]

_STEP = "step"


class RowArrays:
    """Allocation, exact copies and the state of a task whose rows are slices of arrays.

    A task derives from it, names its arrays, and adds `reset` and `unroll`. Each row also has a
    clock: the steps taken since its reset, -1 before the first.

    Args:
        name: the task's name in messages.
        num_params: d.
        horizon: T, steps of an episode; None if it never ends.
        n_threads: threads that share the rows of one `unroll`; None for all usable processors.
        fields: for each array its shape behind the row index, and its dtype.

    Raises:
        ValueError: names the option that is out of range.
    """

    def __init__(
        self,
        name: str,
        num_params: int,
        horizon: int | None,
        n_threads: int | None,
        fields: Mapping[str, tuple[tuple[int, ...], DTypeLike]],
    ) -> None:
        self.name = name
        self.num_params = num_params
        self.horizon = None if horizon is None else positive_integer("horizon", horizon)
        self.n_threads = None if n_threads is None else positive_integer("n_threads", n_threads)
        self._fields = {**fields, _STEP: ((), np.int64)}
        self.allocate(0)

    @property
    def bytes_per_row(self) -> int:
        """Memory that one row's state takes."""
        return sum(
            int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            for shape, dtype in self._fields.values()
        )

    def allocate(self, n_rows: int) -> None:
        """Make room for `n_rows` rows, forgetting those that were there."""
        self._rows: dict[str, NDArray[Any]] = {
            field: np.zeros((n_rows, *shape), dtype)
            for field, (shape, dtype) in self._fields.items()
        }
        self._rows[_STEP][:] = -1

    def _steps_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the clocks of `rows` (B,), refusing rows that were never reset."""
        steps: NDArray[np.int64] = self._rows[_STEP][rows]
        if steps.size and steps.min() < 0:
            row = int(rows[np.argmin(steps)])
            raise RowNotResetError(f"{self.name}: row {row} is unrolled before it was ever reset")
        return steps

    def copy_rows(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        """Make the rows `target` (B,) exact copies of the rows `source` (B,)."""
        for array in self._rows.values():
            array[target] = array[source]

    def get_state(self) -> State:
        """Return copies of the rows' arrays, by name."""
        return {field: array.copy() for field, array in self._rows.items()}

    def set_state(self, state: State) -> None:
        """Go back to exactly the state that `get_state` returned.

        Raises:
            ValueError: if the state is of another task or of other settings.
        """
        if set(state) != set(self._fields):
            raise ValueError(
                f"{self.name}: the state has {sorted(state)}, this task needs "
                f"{sorted(self._fields)}"
            )
        n_rows = len(state[_STEP])
        for field, (shape, dtype) in self._fields.items():
            value = state[field]
            if value.shape != (n_rows, *shape) or value.dtype != dtype:
                raise ValueError(
                    f"{self.name}: the state's {field!r} is {value.dtype} of shape "
                    f"{value.shape}, this task needs {np.dtype(dtype)} of shape "
                    f"{(n_rows, *shape)}"
                )
        self._rows = {field: np.array(state[field], order="C") for field in self._fields}


def checked(name: str, kind: Kind, value: Any) -> Any:
    """Return `value` in the normal form of its kind, or raise ValueError with the option's name."""
    try:
        return kind.check(value)
    except ValueError as error:
        # a list of one number is not to look like the number
        text = repr(value) if isinstance(value, (list, tuple)) else value
        raise ValueError(f"{name}={shown(text)}: {error}") from None


def positive_integer(name: str, value: Any) -> int:
    """Return `value` as an int, or raise ValueError with the option's name."""
    number: int = checked(name, Integer(1), value)
    return number


def positive_number(name: str, value: Any) -> float:
    """Return `value` as a float, or raise ValueError with the option's name."""
    number: float = checked(name, Real(above=0), value)
    return number
