"""Readers under random input: documented errors alone, nothing executed, memory bounded.

A small part of what `scripts/faults/fuzz.py` runs for as long as one likes.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import fuzzing
import numpy as np
import pytest
from fuzz_targets import SEEDS, TARGETS, policy_header
from hypothesis import given
from hypothesis import strategies as st

from es_rl.config_layers import load_config, resolve
from es_rl.files import read_npz, write_npz
from es_rl.options import ConfigError, parse_value
from es_rl.policies import load_policy


@st.composite
def mutated(draw: Any, seeds: tuple[bytes, ...]) -> bytes:
    """One of `seeds` with some stretches replaced, left out, or said again."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.integers(0, 8)))
        other = draw(
            st.binary(max_size=8)
            | st.sampled_from([b"0", b"-1", b"9" * 30, b"1e999", b"[" * 50, b"*a", b"null", b"\n"])
            | st.just(data[start : start + 20])
        )
        data = data[:start] + other + data[stop:]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_random_input_meets_documented_errors_alone(name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name](seed)

    @fuzzing.cases(60)
    @given(mutated(SEEDS[name]) | st.binary(max_size=200))
    def check(data: bytes) -> None:
        TARGETS[name](data)

    check()


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=6)
    | st.integers() | st.sampled_from([2**31, 2**63, 10**30, -1, "Box", "Dict", "float64", "O"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["type", "shape", "low", "high", "dtype", "n", "start", "spaces", "x"]),
        inner, max_size=5,
    ),
    max_leaves=12,
)  # fmt: skip


@fuzzing.cases(150)
@given(st.sampled_from(["kind", "options", "observation_space", "action_space", "metadata"]), _JSON)
def test_random_headers_meet_documented_errors_alone(key: str, value: Any) -> None:
    policy_header(key.encode() + b"=" + json.dumps(value).encode())


@pytest.mark.parametrize(
    "text",
    [
        "updates: " + "9" * 5000,
        "updates: 0x" + "f" * 5000,
        "updates: [" + "0x" + "f" * 5000 + "]",
        "sigma: 1" + "0" * 400,
        "env: " + "[" * 5000,
        "env_kwargs: " + "{a: " * 3000,
        "when: 2001-99-99",
        "seed: !!int ''",
        "seed: 0b_",
        "a: &a [*a]",
        "'" + "\\x07" * 3 + "': 1",
        '"line\\nbreak": 1',
        "sigma: " + "x" * 100_000,
        "&a a: *b",
        "? {a: 1}\n: 2",
        "import_modules: ['..']",
        "import_modules: ['a\\0b']",
    ],
    ids=range(17),
)
def test_configs_that_trip_parsers_are_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    for read in (
        lambda: load_config(tmp_path / "c.yaml"),
        lambda: resolve({"env": "Swimmer-v4", "algo": "nres"}, config_file=tmp_path / "c.yaml"),
    ):
        with pytest.raises(ConfigError) as caught:
            read()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", ['{"a": ' + "[" * 50_000, "a=" + "[" * 50_000])
def test_keyword_arguments_nested_beyond_measure_break_nothing(text: str) -> None:
    read = None
    with contextlib.suppress(ConfigError):
        read = parse_value("env_kwargs", text)
    assert read is None or isinstance(read, dict)


BOMBS = """
import resource, sys
def limit():
    # room for the interpreter and what is loaded, and for nothing like what the file claims
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    # the soft limit alone: without CAP_SYS_RESOURCE the hard one could not be raised again
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    soft = size + (256 << 20)
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
from es_rl.config_layers import load_config
from es_rl.policies import load_policy
from es_rl.checkpoint import load_checkpoint
for path in sys.argv[1:]:
    limit()
    for read in (load_config, load_policy, load_checkpoint):
        try:
            read(path)
        except ValueError as error:
            assert "MemoryError" not in repr(error.__cause__), error
            continue
        raise SystemExit(f"{path} was read by {read.__name__}")
print("refused")
"""


def _bombs(folder: Path) -> list[str]:
    import zipfile

    (folder / "laughs.yaml").write_text(
        "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
        + "env_kwargs: {a: *a11}\n"
    )
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.npy", bytes(1 << 30))
    (folder / "sparse.yaml").touch()
    os.truncate(folder / "sparse.yaml", 1 << 40)
    box = {"type": "Box", "shape": [1 << 23], "dtype": "float64", "low": 0, "high": 1}
    for name, space in (
        ("one", {**box, "shape": [1 << 40]}),
        ("many", {"type": "Tuple", "spaces": [box] * 300}),
        ("choices", {"type": "Discrete", "n": 1 << 50, "start": 0}),
        ("nested", {"type": "MultiDiscrete", "nvec": [[1 << 62] * 2] * 2, "start": 0}),
    ):
        header = {
            "format": "es_rl policy", "version": 1, "kind": "linear", "metadata": {},
            "options": {"bias": False, "clip_actions": False},
            "observation_space": space, "action_space": {"type": "Discrete", "n": 2, "start": 0},
        }  # fmt: skip
        write_npz(folder / f"{name}.npz", header, {"theta": np.zeros(2)})
    return sorted(str(path) for path in folder.iterdir())


def test_bombs_are_refused_within_little_memory(tmp_path: Path) -> None:
    paths = _bombs(tmp_path)
    assert len(paths) == 7
    done = subprocess.run(
        [sys.executable, "-c", BOMBS, *paths], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "refused\n", "")


class Trap:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (os.fspath(self.mark),)


def test_pickles_and_yaml_objects_are_refused_and_not_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    path = tmp_path / "file"
    pickled = pickle.dumps(Trap(mark))
    np.save(tmp_path / "o.npy", np.array([Trap(mark)], object), allow_pickle=True)
    np.savez(tmp_path / "o.npz", header=np.array([Trap(mark)], object))
    tagged = f"env: !!python/object/apply:os.mkdir ['{mark}']\n".encode()
    for content in (
        pickled,
        (tmp_path / "o.npy").read_bytes(),
        (tmp_path / "o.npz").read_bytes(),
        tagged,
    ):
        path.write_bytes(content)
        for read in (load_config, load_policy, lambda p: read_npz(p, "x", 1)):
            with pytest.raises(ValueError, match="file"):
                read(path)
    assert not mark.exists()
    pickle.loads(pickled)
    assert mark.exists()
