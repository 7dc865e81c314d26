"""Agents in files: a .zip of JSON and plain arrays that executes nothing when it is read.

Stable-Baselines3's own files hold cloudpickled objects, which run code on loading. These have the
same outside, a zip with a member `data` in JSON, and arrays beside it as `NAME.npy`, so that
`numpy.load` opens them too, and the zip's comment is a checksum of the whole file.
"""

from __future__ import annotations

import io
import json
import math
import os
import pathlib
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from typing import IO, Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import __version__ as sb3_version
from stable_baselines3.common.utils import (
    ConstantSchedule,
    FloatSchedule,
    LinearSchedule,
    get_system_info,
)

import es_rl
from es_rl.agents.sources import Source
from es_rl.files import (
    add_array,
    check_members,
    decode_array,
    is_sealed,
    sealed,
    write_bytes,
)
from es_rl.spaces import space_from_dict, space_to_dict
from es_rl.tasks import State

__all__ = [
    "NotStorableError",
    "SavedAgent",
    "decode_value",
    "encode_value",
    "file_name",
    "read_agent",
    "write_agent",
]

_FORMAT = "es_rl agent"
_FORMAT_VERSION = 1
_DATA = "data"
_THETA = "theta"
_INFO = "system_info.txt"
_SB3_VERSION = "_stable_baselines3_version"

_SCHEDULES: Mapping[str, tuple[type, tuple[str, ...]]] = {
    "ConstantSchedule": (ConstantSchedule, ("val",)),
    "LinearSchedule": (LinearSchedule, ("start", "end", "end_fraction")),
}


class SavedAgent(NamedTuple):
    """What the file of an agent holds.

    Attributes:
        algorithm: name of its estimator.
        policy: alias of its policy class, None for a class of the user's own.
        policy_class: name of that class.
        arguments: the constructor's arguments, decoded.
        unsaved: those that could not be stored, and what they were.
        source: its environment; None if it had none.
        observation_space: of its policy.
        action_space: of its policy.
        noise_seed: what all randomness of its training comes from.
        counters: its integers by name.
        progress_remaining: what schedules were asked with last.
        recent_episodes: the latest finished episodes, as Monitor describes them.
        theta: (d,) float64.
        state: optimiser and particles.
    """

    algorithm: str
    policy: str | None
    policy_class: str
    arguments: dict[str, Any]
    unsaved: dict[str, str]
    source: Source | None
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    noise_seed: int
    counters: dict[str, int]
    progress_remaining: float
    recent_episodes: list[dict[str, float]]
    theta: NDArray[np.float64]
    state: State


class NotStorableError(TypeError):
    """A value that JSON cannot hold and that is not worth running code for."""


class _ProportionalSchedule:
    """progress_remaining · initial_value, which rl_zoo3 calls its simple linear schedule."""

    def __init__(self, initial_value: float) -> None:
        self.initial_value = initial_value

    def __call__(self, progress_remaining: float) -> float:
        return progress_remaining * self.initial_value


def encode_value(value: Any) -> Any:
    """Return what JSON can hold of `value`, so that `decode_value` gives it back.

    Tuples stay tuples, and Stable-Baselines3's and rl_zoo3's schedules are kept by their numbers.

    Raises:
        NotStorableError: for any other object: functions, classes, arrays.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return number if math.isfinite(number) else {":float:": str(number)}
    if isinstance(value, tuple):
        return {":tuple:": [encode_value(item) for item in value]}
    if isinstance(value, list):
        return [encode_value(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {":dict:": {key: encode_value(item) for key, item in value.items()}}
    if isinstance(value, FloatSchedule):
        return encode_value(value.value_schedule)
    for name, (schedule, attributes) in _SCHEDULES.items():
        if type(value) is schedule:
            return {":schedule:": name, **{a: float(getattr(value, a)) for a in attributes}}
    if type(value).__name__ in ("SimpleLinearSchedule", _ProportionalSchedule.__name__):
        return {":schedule:": "proportional", "initial_value": float(value.initial_value)}
    raise NotStorableError(f"{value!r} is a {type(value).__name__}")


def decode_value(stored: Any) -> Any:
    """Return the value that `encode_value` encoded.

    Raises:
        ValueError: if `stored` is nothing that `encode_value` returns.
    """
    if isinstance(stored, list):
        return [decode_value(item) for item in stored]
    if not isinstance(stored, dict):
        return stored
    if set(stored) == {":float:"} and stored[":float:"] in ("nan", "inf", "-inf"):
        return float(stored[":float:"])
    if set(stored) == {":tuple:"}:
        return tuple(decode_value(item) for item in stored[":tuple:"])
    if set(stored) == {":dict:"}:
        return {key: decode_value(item) for key, item in stored[":dict:"].items()}
    options = dict(stored)
    name = options.pop(":schedule:", None)
    if name == "proportional" and set(options) == {"initial_value"}:
        return _ProportionalSchedule(**options)
    if name in _SCHEDULES and set(options) == set(_SCHEDULES[name][1]):
        schedule: Callable[..., Any] = _SCHEDULES[name][0]
        return schedule(**options)
    raise ValueError(f"a value of an unknown kind: {stored}")


def write_agent(path: str | pathlib.Path | IO[bytes], agent: SavedAgent) -> None:
    """Write an agent to a file, whole or not at all.

    Args:
        path: where to; ".zip" is added to a path without suffix, and its folder made. Or a
            binary file object.
        agent: what to write; `arguments` must hold nothing that `encode_value` refuses.
    """
    data = {
        "format": _FORMAT,
        "version": _FORMAT_VERSION,
        "checksum": "sha256",
        "es_rl_version": es_rl.__version__,
        **agent._asdict(),
        "arguments": {name: encode_value(value) for name, value in agent.arguments.items()},
        "source": _source_to_dict(agent.source),
        "observation_space": space_to_dict(agent.observation_space),
        "action_space": space_to_dict(agent.action_space),
    }
    del data["theta"], data["state"]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_DATA, json.dumps(data, indent=2))
        add_array(archive, _THETA, agent.theta)
        for name, array in agent.state.items():
            add_array(archive, name, array)
        archive.writestr(_SB3_VERSION, sb3_version)
        archive.writestr(_INFO, get_system_info(print_info=False)[1])
    content = sealed(stream.getvalue())
    if not isinstance(path, (str, os.PathLike)):
        path.write(content)
        return
    target = pathlib.Path(path)
    if not target.suffix:
        target = target.with_suffix(".zip")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, content)


def read_agent(path: str | pathlib.Path | IO[bytes], print_system_info: bool = False) -> SavedAgent:
    """Read what `write_agent` wrote. Nothing in it is executed.

    Args:
        path: where from; the suffix ".zip" may be left out. Or a binary file object.
        print_system_info: print what machine and versions the file was written with.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or something else, a file with pickled objects for example.
    """
    try:
        data, arrays, info = _members(_content(path))
        agent = _to_agent(data, arrays)
    except (
        zipfile.BadZipFile,
        EOFError,
        AttributeError,
        KeyError,
        MemoryError,
        NotImplementedError,
        OverflowError,
        RuntimeError,
        SyntaxError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        raise ValueError(f"{file_name(path)}: not a usable agent file ({error})") from error
    if print_system_info:
        print("== SAVED MODEL SYSTEM INFO ==")
        print(info)
    return agent


def file_name(path: str | pathlib.Path | IO[bytes]) -> str:
    """Return what messages call the file."""
    return str(path) if isinstance(path, (str, os.PathLike)) else "the agent's file"


def _members(content: bytes) -> tuple[dict[str, Any], State, str]:
    """Return the JSON, the arrays and the system information in an agent's file."""
    arrays: State = {}
    has_checksum = is_sealed(io.BytesIO(content))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        check_members(archive, len(content))
        members = archive.namelist()
        data = json.loads(archive.read(_DATA))
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise ValueError(
                "it was not saved by es_rl; files of Stable-Baselines3's own agents hold pickled "
                "objects, which are never loaded here"
            )
        version = data.get("version")
        if not isinstance(version, int) or not 1 <= version <= _FORMAT_VERSION:
            raise ValueError(f"version {version!r}; this library reads 1 to {_FORMAT_VERSION}")
        if "checksum" in data and not has_checksum:
            raise ValueError("its checksum is missing")
        for member in members:
            if member.endswith(".npy"):
                arrays[member.removesuffix(".npy")] = decode_array(archive.read(member))
            elif member not in (_DATA, _INFO, _SB3_VERSION):
                raise ValueError(f"member {member!r} is none that this library writes")
        return data, arrays, archive.read(_INFO).decode()


def _to_agent(data: dict[str, Any], arrays: State) -> SavedAgent:
    fields = {name: data[name] for name in SavedAgent._fields if name not in ("theta", "state")}
    fields["arguments"] = {name: decode_value(v) for name, v in data["arguments"].items()}
    fields["source"] = _source_from_dict(data["source"])
    fields["counters"] = {name: int(value) for name, value in data["counters"].items()}
    theta = arrays.pop(_THETA)
    for name in ("observation_space", "action_space"):
        # each input and each output has a weight
        fields[name] = space_from_dict(data[name], theta.size)
    return SavedAgent(theta=theta, state=arrays, **fields)


def _source_to_dict(source: Source | None) -> dict[str, Any] | None:
    if source is None:
        return None
    try:
        kwargs = encode_value(source.env_kwargs)
    except NotStorableError:
        # copies cannot be made from an id alone then
        return {"name": source.name, "id": None, "kwargs": encode_value({})}
    return {"name": source.name, "id": source.env_id, "kwargs": kwargs}


def _source_from_dict(data: dict[str, Any] | None) -> Source | None:
    if data is None:
        return None
    name, env_id, kwargs = data["name"], data["id"], decode_value(data["kwargs"])
    if not isinstance(name, str) or not isinstance(env_id, (str, type(None))):
        raise ValueError("its environment is no id")
    if not isinstance(kwargs, dict):
        raise ValueError("its environment's keyword arguments are no names with values")
    # Gymnasium imports what stands before the colon; a file has nothing imported by itself
    if env_id is not None and ":" in env_id and env_id.rpartition(":")[0] not in sys.modules:
        env_id = None
    return Source(name, env_id, kwargs)


def _content(path: str | pathlib.Path | IO[bytes]) -> bytes:
    if not isinstance(path, (str, os.PathLike)):
        content = path.read()
        if not content and path.seekable():
            # where `save` left it
            path.seek(0)
            content = path.read()
        return content
    target = pathlib.Path(path)
    if not target.is_file() and not target.suffix:
        target = target.with_suffix(".zip")
    if target.exists() and not target.is_file():
        raise ValueError("it is a folder, a device or a pipe")
    return target.read_bytes()
