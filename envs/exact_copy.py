"""Exact copies of running environments, without taking a step.

Neither `copy.deepcopy` nor pickle gives them: both follow `gymnasium.utils.EzPickle`, which
builds a fresh environment from the constructor's arguments (Gymnasium issue 779), and both part
NumPy views from the array they look into. Here the object graph is walked by a pickler that
stays in memory and inside one process: EzPickle is bypassed, views keep sharing memory with their
(copied) base, closures get copied cells, MuJoCo's structures are copied by MuJoCo, and classes,
modules and plain functions are shared.

An environment that keeps state outside Python (in a C library, a socket, a file) takes part by
Python's own pickling protocol: `__getstate__` and `__setstate__` (or `__reduce__`) that save and
restore that state exactly. What cannot be copied so raises.
"""

from __future__ import annotations

import copy
import io
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

__all__ = ["exact_copy"]

T = TypeVar("T")

StandIns = dict[int, tuple[Any, Any]]
"""(original, stand-in) by the original's identity, which holding the original keeps unique."""


class _Reference(NamedTuple):
    """Marks an object that the copy shares with the original."""

    target: Any


class _Copier(pickle.Pickler):
    """Writes an object graph; what pickle must not handle waits in `stand_ins`, by identity."""

    def __init__(self, stream: io.BytesIO, stand_ins: StandIns) -> None:
        super().__init__(stream, protocol=5)
        self.stand_ins = stand_ins
        mujoco = sys.modules.get("mujoco")
        self.model_type: Any = mujoco.MjModel if mujoco else ()
        self.data_type: Any = mujoco.MjData if mujoco else ()

    def persistent_id(self, obj: Any) -> int | None:
        """Return the key of the object that stands in for `obj`, or None to pickle it."""
        key = id(obj)
        if key in self.stand_ins:
            return key
        stand_in: Any
        if isinstance(obj, _Reference):
            stand_in = obj.target
        elif isinstance(obj, (type, types.ModuleType)) or (
            isinstance(obj, types.FunctionType) and obj.__closure__ is None
        ):
            stand_in = obj
        elif type(obj) is np.ndarray and obj.base is None and not obj.dtype.hasobject:
            stand_in = obj.copy(order="K")
        elif isinstance(obj, self.model_type):
            stand_in = copy.copy(obj)
        elif isinstance(obj, self.data_type):
            stand_in = self._copy_data(obj)
        else:
            return None
        self.stand_ins[key] = obj, stand_in
        return key

    def _copy_data(self, data: Any) -> Any:
        """Copy an MjData onto the copy of its own model."""
        mujoco = sys.modules["mujoco"]
        original = data.model
        self.persistent_id(original)
        _, model = self.stand_ins[id(original)]
        copied = mujoco.MjData(model)
        mujoco.mj_copyData(copied, model, data)
        return copied

    def reducer_override(self, obj: Any) -> Any:
        """Replace the reductions that would lose state or sharing."""
        if isinstance(obj, EzPickle) and type(obj).__getstate__ is EzPickle.__getstate__:
            if any(getattr(cls, "__slots__", ()) for cls in type(obj).__mro__):
                raise pickle.PicklingError(f"{type(obj).__name__} is an EzPickle with __slots__")
            return _bare, (type(obj),), obj.__dict__, None, None, _set_attributes
        if type(obj) is np.ndarray and obj.base is not None:
            return self._reduce_view(obj)
        if isinstance(obj, types.CellType):
            return types.CellType, ()
        if isinstance(obj, types.FunctionType):
            return self._reduce_closure(obj)
        return NotImplemented

    @staticmethod
    def _reduce_view(view: NDArray[Any]) -> Any:
        base = view.base
        if isinstance(base, (bytes, bytearray, memoryview)):
            return NotImplemented
        if not isinstance(base, np.ndarray):
            raise pickle.PicklingError(
                f"an array of shape {view.shape} looks into memory of a {type(base).__name__}; "
                "keep a copy of it instead of the view"
            )
        if not (base.flags.c_contiguous or base.flags.f_contiguous):
            raise pickle.PicklingError("an array looks into another one that is not contiguous")
        offset = view.ctypes.data - base.ctypes.data
        return _make_view, (base, view.shape, view.dtype, offset, view.strides)

    @staticmethod
    def _reduce_closure(function: types.FunctionType) -> Any:
        # the cells are filled last, as a closure may well contain itself
        cells = function.__closure__ or ()
        contents = tuple(_cell_contents(cell) for cell in cells)
        return (
            _make_function,
            (
                _Reference(function.__code__),
                _Reference(function.__globals__),
                function.__name__,
                cells,
            ),
            (function.__defaults__, function.__kwdefaults__, function.__dict__, contents),
            None,
            None,
            _fill_function,
        )


class _Rebuilder(pickle.Unpickler):
    """Reads what `_Copier` wrote."""

    def __init__(self, stream: io.BytesIO, stand_ins: StandIns) -> None:
        super().__init__(stream)
        self.stand_ins = stand_ins

    def persistent_load(self, pid: int) -> Any:
        """Return the object that stands in under this key."""
        return self.stand_ins[pid][1]


def _bare(cls: type[T]) -> T:
    return cls.__new__(cls)


def _set_attributes(obj: Any, attributes: dict[str, Any]) -> None:
    obj.__dict__.update(attributes)


def _make_view(
    base: NDArray[Any],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    offset: int,
    strides: tuple[int, ...],
) -> NDArray[Any]:
    return np.ndarray(shape, dtype, base, offset, strides)


def _cell_contents(cell: types.CellType) -> tuple[Any, ...]:
    """Return the cell's contents as a 1-tuple, () if it is still empty."""
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()


def _make_function(
    code: types.CodeType, names: dict[str, Any], name: str, cells: tuple[types.CellType, ...]
) -> Callable[..., Any]:
    return types.FunctionType(code, names, name, None, cells)


def _fill_function(function: Any, state: tuple[Any, Any, dict[str, Any], tuple[Any, ...]]) -> None:
    function.__defaults__, function.__kwdefaults__, attributes, contents = state
    function.__dict__.update(attributes)
    for cell, value in zip(function.__closure__, contents, strict=True):
        if value:
            cell.cell_contents = value[0]


def exact_copy(
    env: gym.Env[Any, Any], observation: Any, discarded: gym.Env[Any, Any] | None = None
) -> tuple[gym.Env[Any, Any], Any]:
    """Copy a running environment, wrappers and all, and the observation that goes with it.

    Args:
        env: the environment to copy; it is not changed.
        observation: its latest observation, which may share memory with the environment.
        discarded: an environment that is no longer used. If it simulates the same MuJoCo model,
            its memory serves the copy, which spares most of the cost.

    Returns:
        The copies of `env` and `observation`.

    Raises:
        Exception: whatever pickling raises on a state that it cannot take: TypeError,
            pickle.PicklingError, AttributeError or an error of the environment's own.
    """
    stand_ins = {} if discarded is None else _recycle(env, discarded)
    stream = io.BytesIO()
    _Copier(stream, stand_ins).dump((env, observation))
    stream.seek(0)
    copied: tuple[gym.Env[Any, Any], Any] = _Rebuilder(stream, stand_ins).load()
    return copied


def _recycle(env: gym.Env[Any, Any], discarded: gym.Env[Any, Any]) -> StandIns:
    """Copy the simulation of `env` into that of `discarded` if their models are alike."""
    mujoco = sys.modules.get("mujoco")
    if mujoco is None:
        return {}
    data = getattr(env.unwrapped, "data", None)
    spare = getattr(discarded.unwrapped, "data", None)
    if not (isinstance(data, mujoco.MjData) and isinstance(spare, mujoco.MjData)):
        return {}
    old, new = data.model, spare.model
    if _model_bytes(mujoco, old) != _model_bytes(mujoco, new):
        return {}
    mujoco.mj_copyData(spare, new, data)
    return {id(old): (old, new), id(data): (data, spare)}


def _model_bytes(mujoco: types.ModuleType, model: Any) -> bytes:
    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return buffer.tobytes()
