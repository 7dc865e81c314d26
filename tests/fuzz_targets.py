"""What is fed to everything that reads files and text, and what may come out of it.

Each target takes any bytes and either returns or raises `AssertionError` (or anything else that a
user should never meet). `tests/test_fuzz.py` and `scripts/faults/fuzz.py` both run them.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping

import numpy as np
from gymnasium import spaces

from es_rl.checkpoint import load_checkpoint, save_checkpoint
from es_rl.config_layers import load_config, resolve
from es_rl.files import add_array, decode_array, read_npz, sealed
from es_rl.optimizers import Adam
from es_rl.options import OPTIONS, ConfigError, parse_value
from es_rl.policies import LinearPolicy, load_policy
from es_rl.progress import ProgressFile
from es_rl.trainer import Trainer

_FOLDER = tempfile.mkdtemp(prefix="es_rl-fuzz-")
_MAX_TEXT = 2_000


def _file(name: str, data: bytes) -> str:
    path = os.path.join(_FOLDER, name)
    with open(path, "wb") as stream:
        stream.write(data)
    return path


def _told(error: Exception) -> None:
    """A message for a user: one line, and no more of it than can be read."""
    text = str(error)
    assert "\n" not in text, text
    assert len(text) < _MAX_TEXT + 2 * len(_FOLDER), text
    assert text.isprintable(), text


def any_array(data: bytes) -> None:
    """A member of a file."""
    try:
        array = decode_array(data)
    except ValueError:
        return
    assert array.nbytes <= len(data)
    assert array.dtype.kind in "biufcSU"


def any_file(data: bytes) -> None:
    """Bytes in place of a policy and of a checkpoint."""
    path = _file("any.npz", data)
    for read in (load_policy, load_checkpoint):
        try:
            read(path)
        except ValueError:
            continue
        raise AssertionError("random bytes passed for a file of this library")


def _archive(members: Mapping[str, bytes | np.ndarray]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            if isinstance(content, bytes):
                archive.writestr(f"{name}.npy", content)
            else:
                add_array(archive, name, content)
    return sealed(stream.getvalue())


def _made_policy() -> tuple[dict[str, object], np.ndarray]:
    box = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    policy = LinearPolicy(box, spaces.Box(-1.0, 1.0, (2,), np.float32))
    policy.save(os.path.join(_FOLDER, "policy.npz"), env="Swimmer-v4")
    header, arrays = read_npz(os.path.join(_FOLDER, "policy.npz"), "es_rl policy", 99)
    return header, arrays["theta"]


def policy_header(data: bytes) -> None:
    """JSON in place of a part of a policy's header, under a checksum that is right."""
    header, theta = _made_policy()
    key, _, text = data.partition(b"=")
    try:
        value = json.loads(text)
        header[key.decode()] = value
        content = json.dumps({**header, "checksum": "sha256", "arrays": ["theta"]}).encode()
    except (ValueError, RecursionError):
        return
    members = {"header": np.frombuffer(content, np.uint8), "theta": theta}
    try:
        policy = load_policy(_file("header.npz", _archive(members)))
    except ValueError:
        return
    assert np.array_equal(policy.theta, theta)


def policy_space(data: bytes) -> None:
    """JSON in place of each of a policy's spaces, under a checksum that is right."""
    header, theta = _made_policy()
    try:
        space = json.loads(data)
        content = json.dumps(space)
    except (ValueError, RecursionError):
        return
    assert header["observation_space"] != space
    for name in ("observation_space", "action_space"):
        changed = {**header, name: space, "checksum": "sha256", "arrays": ["theta"]}
        members = {"header": np.frombuffer(json.dumps(changed).encode(), np.uint8), "theta": theta}
        path = _file("space.npz", _archive(members))
        tracemalloc.start()
        try:
            load_policy(path)
        except ValueError as error:
            _told(error)
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < (2 << 20) + 500 * len(content), f"{peak} bytes for {content}"


def policy_member(data: bytes) -> None:
    """Bytes in place of the parameters, under checksums that are right."""
    header, theta = _made_policy()
    content = json.dumps({**header, "checksum": "sha256", "arrays": ["theta"]}).encode()
    members = {"header": np.frombuffer(content, np.uint8), "theta": data}
    try:
        policy = load_policy(_file("member.npz", _archive(members)))
    except ValueError:
        return
    assert policy.theta.shape == theta.shape
    assert np.isfinite(policy.theta).all()


class _Stub:
    """An estimator without a state, so that a trainer needs no environment."""

    def state_dict(self) -> dict[str, np.ndarray]:
        return {}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        assert not state or all(isinstance(value, np.ndarray) for value in state.values())


def _trainer() -> Trainer:
    trainer = Trainer(_Stub(), Adam(3, 0.1), np.zeros(3))  # type: ignore[arg-type]
    trainer._started = True
    return trainer


def training_state(data: bytes) -> None:
    """An array in place of one of a checkpoint's, under checksums that are right."""
    name, _, member = data.partition(b"=")
    path = os.path.join(_FOLDER, "state.npz")
    save_checkpoint(path, _trainer())
    header, arrays = read_npz(path, "es_rl checkpoint", 99)
    try:
        arrays[name.decode()] = decode_array(member)
        content = json.dumps({**header, "checksum": "sha256", "arrays": list(arrays)}).encode()
    except ValueError:
        return
    members = {"header": np.frombuffer(content, np.uint8), **arrays}
    trainer = _trainer()
    try:
        trainer.load_state_dict(load_checkpoint(_file("changed.npz", _archive(members)))[1])
    except ValueError:
        return
    assert np.isfinite(trainer.theta).all()
    assert trainer.theta.dtype == np.float64
    assert min(trainer.updates, trainer.total_steps, trainer.optimizer.updates) >= 0
    assert all(np.isfinite(v).all() for v in trainer.optimizer.state_dict().values())


def config_file(data: bytes) -> None:
    """Bytes in place of a configuration and of a run's config.yaml."""
    path = _file("config.yaml", data)
    try:
        resolve({"env": "Swimmer-v4", "algo": "nres"}, config_file=path)
    except ConfigError as error:
        _told(error)
    try:
        load_config(path)
    except ConfigError as error:
        _told(error)


def preset_file(data: bytes) -> None:
    """Bytes in place of a preset."""
    try:
        resolve({"env": "Swimmer-v4", "algo": "nres"}, preset=_file("preset.yaml", data))
    except ConfigError as error:
        _told(error)


def option_text(data: bytes) -> None:
    """Text in place of the value of each option."""
    text = data.decode("utf-8", "replace")
    for name in OPTIONS:
        try:
            parse_value(name, text)
        except ConfigError as error:
            _told(error)


def progress_file(data: bytes) -> None:
    """Bytes in place of progress.csv."""
    try:
        ProgressFile.read(_file("progress.csv", data))
    except ValueError:
        return


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    function.__name__: function
    for function in (
        any_array,
        any_file,
        policy_header,
        policy_space,
        policy_member,
        training_state,
        config_file,
        preset_file,
        option_text,
        progress_file,
    )
}

_NPY = b"\x93NUMPY\x01\x00v\x00"
_FLOATS = b"{'descr': '<f8', 'fortran_order': False, 'shape': (6,), }"


def _npy(header: bytes, data: bytes) -> bytes:
    return _NPY + header.ljust(117) + b"\n" + data


SEEDS: Mapping[str, tuple[bytes, ...]] = {
    "any_array": (_npy(_FLOATS, bytes(48)), _npy(_FLOATS.replace(b"<f8", b"|S1"), b"abcdef")),
    "any_file": (b"PK\x03\x04", b"PK\x05\x06" + bytes(18)),
    "policy_header": (
        b'options={"bias": false, "clip_actions": false}',
        b'observation_space={"type": "Box", "shape": [3], "dtype": "float64", "low": 0, "high": 1}',
        b'action_space={"type": "Dict", "spaces": {"a": {"type": "Discrete", "n": 2, "start": 0}}}',
        b'kind="mlp"',
        b"metadata=[]",
        b"version=1",
    ),
    "policy_space": tuple(
        text.encode()
        for text in (
            '{"type": "Box", "shape": [1], "dtype": "float32", "low": -1, "high": 1}',
            '{"type": "Box", "shape": [1], "dtype": "U300000000", "low": 0, "high": 1}',
            '{"type": "Box", "shape": [1], "dtype": "S1500000000", "low": "a", "high": "b"}',
            '{"type": "Box", "shape": [1], "dtype": "(150000000,)f8", "low": 0, "high": 1}',
            '{"type": "Box", "shape": [16777216], "dtype": "int8", "low": 0, "high": 1}',
            '{"type": "Box", "shape": [0, 1099511627776], "dtype": "f8", "low": 0, "high": 1}',
            '{"type": "Discrete", "n": 3, "start": 0}',
            '{"type": "Discrete", "n": 16777216, "start": -5}',
            '{"type": "MultiBinary", "n": [3, 4000]}',
            '{"type": "MultiDiscrete", "nvec": [2, 3], "start": [0, 1]}',
            '{"type": "Tuple", "spaces": [{"type": "Box", "shape": [134217728], "dtype": "f8", '
            '"low": 0, "high": 1}, {"type": "Discrete", "n": -1099511627776, "start": 0}]}',
            '{"type": "Dict", "spaces": {"a": {"type": "Discrete", "n": 2, "start": 0}}}',
            '{"type": "Tuple", "spaces": [' * 400 + "1" + "]}" * 400,
        )
    ),
    "policy_member": (_npy(_FLOATS, bytes(48)), _npy(_FLOATS, b"\xff" * 48)),
    "training_state": tuple(
        name + b"=" + _npy(_FLOATS.replace(b"(6,)", shape).replace(b"<f8", kind), size * byte)
        for name, shape, kind, size in (
            (b"theta", b"(3,)", b"<f8", 24),
            (b"theta", b"(3,)", b"<i8", 24),
            (b"theta", b"(3,)", b"|S2", 6),
            (b"theta", b"(3,)", b"<c16", 48),
            (b"counters", b"(4,)", b"<i8", 32),
            (b"counters", b"(4,)", b"<f8", 32),
            (b"counters", b"(2,)", b"<i8", 16),
            (b"optimizer/updates", b"()", b"<i8", 8),
            (b"optimizer/updates", b"(2,)", b"<i8", 16),
            (b"optimizer/updates", b"()", b"<f8", 8),
            (b"optimizer/first_moment", b"(3,)", b"<f8", 24),
            (b"optimizer/first_moment", b"(3,)", b"<U1", 12),
            (b"optimizer/first_moment", b"(3,)", b"<c16", 48),
        )
        for byte in (b"\0", b"\xff")
    ),
    "config_file": (
        b"env: Swimmer-v4\nalgo: nres\nsigma: 3e-5\nupdates: 5\nabout: {x: 1}\n",
        b"hidden: [64, 64]\npolicy: mlp\nenv_kwargs: {frame_skip: 2}\n",
        b"a: &a [1, 2]\nb: *a\n<<: {c: 1}\n? [x]\n: y\n!!binary aaaa: 2001-01-01\n",
        b"updates: 0x_\nsigma: 1:99:9.\nseed: !!int x\n",
    ),
    "preset_file": (b"Swimmer-v4: {sigma: 0.1}\ndefault: {n_pairs: 3}\n", b"default: []\n"),
    "option_text": (b"1e6", b"64,64", b'{"a": [1]}', b"a=1,b=[1,2]", b"linear:100:0.1", b"nan"),
    "progress_file": (
        b"update,sequential_steps,total_steps,evaluation_steps,wall_time,mean_loss,gradient_norm,"
        b"episodes,eval_reward_mean,eval_reward_std\n1,2,3,4,0.5,0.5,1e-9,0,,\n",
    ),
}
"""Inputs to begin with, by target: valid ones, and such as come near."""
