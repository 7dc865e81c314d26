"""Runs side by side: in one folder, in threads, forked, spawned, in a notebook, requeued."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import started
from test_faults_run import ENTRY, RESUME, WORDS, command
from test_run import config, contents

from es_rl import run_folder
from es_rl.cli.app import app
from es_rl.config import TrainConfig
from es_rl.config_layers import load_config
from es_rl.options import ConfigError
from es_rl.run import resume, train
from es_rl.run_folder import RunFolder, default_run_dir


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing else was running beside."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    train(config(), str(path))
    return path


def test_a_second_run_in_a_folder_is_refused_whoever_starts_it(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    in_use = f"--run-dir {path}: another process is training in it; wait for it"
    with RunFolder.create(str(path), config(), {}):
        with pytest.raises(ConfigError, match=in_use):
            resume(config(), str(path))
        done = command(tmp_path, RESUME)
        assert done.returncode == 2
        assert done.stderr.startswith("error: " + in_use.replace(str(path), "run"))
        # one that would begin there finds the folder taken
        done = command(tmp_path, WORDS)
        assert done.returncode == 2
        assert "holds a run already" in done.stderr
    resume(config(), str(path))
    assert contents(path) == contents(whole)


def test_two_that_begin_in_one_folder_at_the_same_moment_do_not_mix(tmp_path: Path) -> None:
    path, outcomes = tmp_path / "run", []
    barrier = threading.Barrier(4)

    def begin() -> None:
        barrier.wait()
        try:
            outcomes.append(RunFolder.create(str(path), config(), {}))
        except ConfigError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    folders = [one for one in outcomes if isinstance(one, RunFolder)]
    assert len(folders) == 1
    assert all(isinstance(one, (RunFolder, ConfigError)) for one in outcomes)
    folders[0].close()
    assert sorted(os.listdir(tmp_path)) == ["run"]


def at_once(n: int, work: Callable[[int], Any]) -> list[Any]:
    """What `work` gave, or raised, in threads that all begin at the same moment."""
    outcomes: list[Any] = []

    def call(number: int) -> None:
        try:
            outcomes.append(work(number))
        except ConfigError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_the_refused_one_of_two_leaves_the_config_of_the_other_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, barrier, check = tmp_path / "run", threading.Barrier(2), RunFolder.check_new
    path.mkdir()
    waited = threading.local()

    def checked(folder: str) -> None:
        check(folder)
        if not hasattr(waited, "done"):  # both have seen it empty before one goes on
            waited.done = barrier.wait()

    monkeypatch.setattr(RunFolder, "check_new", staticmethod(checked))
    outcomes = at_once(2, lambda seed: RunFolder.create(str(path), config(seed=seed), {}))
    (folder,) = [one for one in outcomes if isinstance(one, RunFolder)]
    (error,) = [one for one in outcomes if isinstance(one, ConfigError)]
    assert "another process is training in it" in str(error)
    folder.close()
    assert load_config(path / "config.yaml")[0] == folder.config


def test_runs_without_a_folder_of_their_own_get_one_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    barrier = threading.Barrier(4)
    named = threading.local()

    def default(given: TrainConfig) -> str:
        path = default_run_dir(given, str(tmp_path))
        if not hasattr(named, "done"):  # all have chosen one name before anyone takes it
            named.done = barrier.wait()
        return path

    monkeypatch.setattr(run_folder, "default_run_dir", default)
    monkeypatch.setattr(run_folder.time, "strftime", lambda _: "now")
    folders = at_once(4, lambda _: RunFolder.create_anew(config(), {}))
    for folder in folders:
        folder.close()
    stem = str(tmp_path / "Swimmer-v4-nres-seed5-now")
    assert sorted(folder.path for folder in folders) == [stem, *(f"{stem}-{n}" for n in (2, 3, 4))]
    assert len(os.listdir(tmp_path)) == 4


def test_a_run_that_begins_while_another_chooses_a_folder_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, others = RunFolder.check_new, []

    def check_slowly(path: str) -> None:
        check(path)
        if not others:  # after the first look, and before the folder is made
            others.append(path)
            others.append(RunFolder.create(path, config(), {}))

    monkeypatch.setattr(RunFolder, "check_new", check_slowly)
    monkeypatch.setattr(run_folder, "default_run_dir", lambda c: default_run_dir(c, str(tmp_path)))
    monkeypatch.setattr(run_folder.time, "strftime", lambda _: "now")
    with RunFolder.create_anew(config(), {}) as folder, others[1] as other:
        assert (other.path, folder.path) == (others[0], f"{others[0]}-2")


def test_what_a_kill_in_the_first_moment_leaves_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    (path / ".config.yaml.abc123.tmp").write_text("env: Swi")
    train(config(updates=1), str(path))
    assert not list(path.glob(".*"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".mine").write_text("mine")
    with pytest.raises(ConfigError, match="is full already; name another folder"):
        train(config(updates=1), str(tmp_path / "other"))


def test_runs_in_threads_side_by_side_are_as_alone(whole: Path, tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def work(name: str) -> None:
        try:
            train(config(), str(tmp_path / name))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for name in ("a", "b", "c"):
        assert contents(tmp_path / name) == contents(whole)


def test_the_command_line_works_in_a_thread_that_gets_no_signals(
    whole: Path, tmp_path: Path
) -> None:
    words = [str(tmp_path / "run") if word == "run" else word for word in WORDS]
    codes = []

    def work() -> None:
        codes.append(app([*words, "--quiet"], standalone_mode=False))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert codes == [0]
    assert signal.getsignal(signal.SIGTERM) is before
    assert contents(tmp_path / "run") == contents(whole)


PROCESSES = """
import multiprocessing, os, sys, warnings
sys.path.insert(0, {tests!r})
from test_run import config
from es_rl.run import train

def work(path):
    train(config(), path)

if __name__ == "__main__":
    how = sys.argv[1]
    if how == "fork":
        # Python 3.12 warns of forks beside threads, which is what is tried here
        warnings.simplefilter("ignore", DeprecationWarning)
        train(config(updates=2), sys.argv[2])  # numba, MuJoCo and the pools of threads are there
    context = multiprocessing.get_context(how)
    children = [context.Process(target=work, args=(path,)) for path in sys.argv[3:]]
    for child in children:
        child.start()
    work(sys.argv[2] + "-parent")
    for child in children:
        child.join()
    print([child.exitcode for child in children])
"""


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_runs_in_child_processes_are_as_alone(whole: Path, tmp_path: Path, how: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(PROCESSES.format(tests=str(Path(__file__).parent)))
    paths = [str(tmp_path / name) for name in ("first", "a", "b")]
    done = subprocess.run(
        [sys.executable, str(script), how, *paths], capture_output=True, text=True, timeout=900,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "[0, 0]\n"), done.stderr
    for path in (*paths[1:], paths[0] + "-parent"):
        assert contents(Path(path)) == contents(whole)


NOTEBOOK = """
import asyncio, sys
sys.path.insert(0, {tests!r})
assert asyncio.get_running_loop().is_running()
from test_run import config, contents
from es_rl.run import train
result = train(config(), "run")
from es_rl.envs import make_task
from es_rl import LinearPolicy
from es_rl.envs.making import make_env
import numpy as np
env = make_env("CartPole-v1")
with make_task("CartPole-v1", LinearPolicy(env.observation_space, env.action_space),
               n_threads=2) as task:
    task.allocate(4)
    task.reset(np.arange(4), np.arange(4, dtype=np.uint64))
    print(task.unroll(np.arange(4), np.zeros((4, task.num_params)), np.full(4, 3)).steps_taken)
print(result.updates)
"""


def test_a_notebook_trains_and_starts_workers(whole: Path, tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(NOTEBOOK.format(tests=str(Path(__file__).parent)))]
    )
    resources = {"metadata": {"path": str(tmp_path)}}
    # in a process of its own: the client's own event loop leaves warnings behind
    path, script = tmp_path / "book.ipynb", tmp_path / "execute.py"
    nbformat.write(book, path)
    script.write_text(
        "import sys, nbclient, nbformat\n"
        "book = nbformat.read(sys.argv[1], 4)\n"
        f"nbclient.NotebookClient(book, timeout=600, resources={resources!r}).execute()\n"
        "print(''.join(o.get('text', '') for o in book.cells[0].outputs), end='')\n"
    )
    assert nbclient.__name__ == "nbclient"
    done = subprocess.run(
        [sys.executable, str(script), str(path)], capture_output=True, text=True, timeout=900,
        check=False, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "[3 3 3 3]\n8\n"), done.stderr
    assert contents(tmp_path / "run") == contents(whole)


def test_a_scheduler_that_requeues_gets_the_run_done(tmp_path: Path) -> None:
    """SIGTERM, exit code 0, the very same command again: until the run is finished."""
    long = [*(word if word != "8" else "4000" for word in WORDS), "--resume"]
    progress = tmp_path / "run" / "progress.csv"
    reached = 0
    for _ in range(2):
        with started(ENTRY.format(more=""), tmp_path, *long) as process:
            for _ in range(30_000):
                lines = progress.read_bytes().count(b"\n") if progress.exists() else 0
                if lines > reached + 20:
                    break
                assert process.poll() is None, process.communicate()
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=300)
        assert (process.returncode, err) == (0, ""), (out, err)
        assert "stopped and saved: " in out
        reached = progress.read_bytes().count(b"\n") - 1
    done = command(tmp_path, [*RESUME, "--updates", str(reached + 3)])
    assert done.returncode == 0, done.stderr
    whole = tmp_path / "whole"
    words = ["whole" if w == "run" else str(reached + 3) if w == "4000" else w for w in long]
    assert command(tmp_path, words).returncode == 0
    assert contents(tmp_path / "run") == contents(whole)
