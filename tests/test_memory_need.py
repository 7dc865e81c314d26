"""Runs that do not fit into memory are refused before they begin, with the option to blame."""

from __future__ import annotations

import io
import os
from typing import Any

import pytest
from command_line import Run

from es_rl import memory_need
from es_rl.config_layers import resolve
from es_rl.memory_need import available_memory, check_memory
from es_rl.options import ConfigError

CARTPOLE = ("train", "CartPole-v1", "--algo", "nres", "--updates", "1")
REFUSED = {
    ("--n-pairs", "999999999"): "--n-pairs 999999999: there is not enough memory for so many",
    ("--policy", "mlp", "--hidden", "100000,100000,100000,100000,100000,100000,100000"): (
        "--hidden 100000,100000,"
    ),
    ("--policy", "mlp", "--hidden", "99999999,99999999"): "--hidden 99999999,99999999: write",
    ("--policy", "mlp", "--hidden", "1" + "0" * 30): "--hidden 1000000000000000000000000000000: w",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_fit_gets_one_line_and_leaves_nothing(
    run: Run, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_need, "_unused_memory", lambda: 1 << 36)
    outcome = run(*CARTPOLE, *words)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"error: {REFUSED[words]}")
    assert outcome.err.count("\n") == 1
    assert os.listdir() == []


def config(**given: Any) -> Any:
    return resolve({"env": "CartPole-v1", "algo": "nres", **given}).config


@pytest.mark.parametrize("algo", ["nres", "pes", "tes"])
def test_the_number_of_pairs_that_is_advised_is_taken(
    algo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_need, "available_memory", lambda: 1 << 30)
    with pytest.raises(ConfigError, match=r"\(.* GiB at least, 1\.0 GiB available\)") as caught:
        check_memory(config(algo=algo, n_pairs=10**8), 10, "gymnasium")
    most = int(str(caught.value).partition("give ")[2].split()[0])
    check_memory(config(algo=algo, n_pairs=most), 10, "gymnasium")
    with pytest.raises(ConfigError):
        check_memory(config(algo=algo, n_pairs=most + 1), 10, "gymnasium")


def test_a_policy_of_which_no_pair_fits_is_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_need, "available_memory", lambda: 1 << 30)
    wide = config(policy="mlp", hidden=(9000, 9000), n_pairs=1)
    with pytest.raises(ConfigError, match=r"--hidden 9000,9000: .* 81,000,000 parameters"):
        check_memory(wide, 81_000_000, "native")


def test_the_limit_of_a_container_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/meminfo": "MemTotal: 99 kB\nMemAvailable:   5000 kB\n",
        "/proc/self/cgroup": "4:memory:/job/7\n0::/job\n",
        "/sys/fs/cgroup/job/memory.max": "max\n",
        "/sys/fs/cgroup/memory/job/7/memory.limit_in_bytes": "4096000\n",
    }

    def opened(path: str, **_: Any) -> io.StringIO:
        if path not in files:
            raise FileNotFoundError(path)
        return io.StringIO(files[path])

    monkeypatch.setattr(memory_need, "open", opened, raising=False)
    assert available_memory() == 4_096_000
    del files["/proc/self/cgroup"]
    assert available_memory() == 5_120_000
    del files["/proc/meminfo"]
    assert available_memory() is None
    check_memory(config(n_pairs=10**9), 10**9, "native")
