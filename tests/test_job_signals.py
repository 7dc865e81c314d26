"""Signals to all processes of a job, as schedulers and service managers send them."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import started

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")

MAIN = "from es_rl.cli.main import main; main()"
WORDS = [
    "train", "CartPole-v1", "--algo", "nres", "--n-pairs", "8", "--unroll-length", "4",
    "--updates", "100000", "--eval-every", "0", "--threads", "2", "--run-dir", "run",
]  # fmt: skip


def descendants(process: int) -> list[int]:
    """The processes below one, nearest first; sessions of their own do not hide them."""
    parents = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
        except OSError:
            continue
    found = [process]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def wait_for_updates(process: subprocess.Popen[str], folder: Path, n: int) -> None:
    progress = folder / "run" / "progress.csv"
    for _ in range(30_000):
        if progress.exists() and progress.read_bytes().count(b"\n") > n:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("the run did not come far enough")


def signalled(folder: Path, words: list[str], *numbers: signal.Signals) -> tuple[int, str, str]:
    """Send every process of a run the signals; its exit code and what it printed."""
    with started(MAIN, folder, *words) as process:
        wait_for_updates(process, folder, 3)
        # the workers first: the run meets them as they are then
        targets = [*reversed(descendants(process.pid)), process.pid]
        for number in numbers:
            for target in targets:
                os.kill(target, number)
        out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.mark.parametrize(
    "numbers", [(signal.SIGTERM,), (signal.SIGHUP,), (signal.SIGTERM, signal.SIGHUP)]
)
def test_a_signal_to_the_whole_job_saves_and_exits_with_0(
    tmp_path: Path, numbers: tuple[signal.Signals, ...]
) -> None:
    code, out, err = signalled(tmp_path, WORDS, *numbers)
    assert (code, err) == (0, ""), out
    assert "stopped and saved: " in out


def test_a_hangup_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    quiet = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); {MAIN}"
    with started(quiet, tmp_path, *WORDS) as process:
        wait_for_updates(process, tmp_path, 3)
        process.send_signal(signal.SIGHUP)
        wait_for_updates(process, tmp_path, 30)
        process.send_signal(signal.SIGTERM)
        assert "stopped and saved: " in process.communicate(timeout=300)[0]


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install es_rl[ray]"
)
def test_the_same_with_workers_on_ray(tmp_path: Path) -> None:
    words = ["Swimmer-v4" if word == "CartPole-v1" else word for word in WORDS]
    words[words.index("--threads") + 1] = "1"
    code, out, err = signalled(
        tmp_path, [*words, "--engine", "ray", "--workers", "1"], signal.SIGTERM
    )
    assert (code, err) == (0, ""), out
    assert "stopped and saved: " in out
