"""Standard output and numba's cache on full disks, readers that go away, Ctrl-C while loading."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_faults_run import in_namespace

MAIN = "from es_rl.cli.main import main; main()"
WORDS = [
    "train", "Swimmer-v4", "--algo", "nres", "--n-pairs", "3", "--unroll-length", "15", "--updates",
    "4", "--eval-every", "1", "--eval-episodes", "1", "--env-kwargs", "max_episode_steps=50",
    "--threads", "1", "--run-dir", "run",
]  # fmt: skip
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")


def command(
    folder: Path, words: list[str], code: str = MAIN, prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    with FULL.open("w") as full:
        return subprocess.run(
            [*prefix, sys.executable, "-c", code, *words], cwd=folder, stdout=full, text=True,
            stderr=subprocess.PIPE, timeout=600, check=False,
        )  # fmt: skip


@needs_full
@pytest.mark.parametrize(
    ("more", "kind", "code"),
    [((), "note", 0), (("--quiet",), "error", 1), (("--json",), "error", 1)],
)
def test_a_run_does_not_end_because_nobody_can_be_told(
    tmp_path: Path, more: tuple[str, ...], kind: str, code: int
) -> None:
    done = command(tmp_path, [*WORDS, *more])
    assert done.stderr == (
        f"{kind}: standard output cannot be written (No space left on device); the run is saved in "
        "run\n"
    )
    assert done.returncode == code
    assert (tmp_path / "run" / "progress.csv").read_bytes().count(b"\n") == 5


@needs_full
@pytest.mark.parametrize("words", [["algos"], ["algos", "--json"], ["--version"]])
def test_other_commands_say_it_in_one_line(tmp_path: Path, words: list[str]) -> None:
    done = command(tmp_path, words)
    assert done.returncode == 1
    assert done.stderr == ("error: standard output cannot be written (No space left on device)\n")


def test_a_full_disk_under_the_cache_of_compiled_code_is_named(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    prefix = in_namespace(
        f"mount -t tmpfs -o size=16k none {cache} && "
        f"(dd if=/dev/zero of={cache}/ballast bs=1k count=16 2>/dev/null || true)"
    )
    done = command(tmp_path, WORDS, prefix=("env", f"NUMBA_CACHE_DIR={cache}", *prefix))
    assert done.returncode == 1
    assert done.stderr == (
        "error: numba's cache of compiled code cannot be written (No space left on device); make "
        "room where NUMBA_CACHE_DIR is, or set that to another folder\n"
    )


@pytest.mark.parametrize("module", ["typer", "es_rl.cli.train", "es_rl.run", "numba"])
def test_ctrl_c_while_things_are_loaded_ends_in_one_line(tmp_path: Path, module: str) -> None:
    code = (
        "import sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n" + MAIN
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *WORDS], cwd=tmp_path, capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")
    assert os.listdir(tmp_path) == []


TALKATIVE = """
import os
import gymnasium as gym
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

print("imported")


class Talkative(CartPoleEnv):
    def step(self, action):
        print("step")
        os.write(1, b"from below\\n")
        return super().step(action)


gym.register("Talkative-v0", Talkative, max_episode_steps=20)
"""


def test_what_an_environment_prints_does_not_mix_with_json(tmp_path: Path) -> None:
    (tmp_path / "talkative.py").write_text(TALKATIVE)
    words = [
        "train", "Talkative-v0", "--algo", "nres", "--import", "talkative", "--n-pairs", "2",
        "--updates", "1", "--threads", "1", "--unroll-length", "5", "--run-dir", "run", "--json",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *words], cwd=tmp_path, capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["updates"] == 1
    assert "imported\n" in done.stderr
    assert "from below\n" in done.stderr
