"""Runs under faults: full disks, lost files, damaged checkpoints, kills; nothing saved is lost."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from test_run import SMALL, Stop, config, contents

from es_rl import event_file, files, run_loop
from es_rl.files import write_npz
from es_rl.options import ConfigError
from es_rl.progress import ProgressFile, Row
from es_rl.run import resume, train
from es_rl.run_folder import RunFolder, StorageError


class Notes:
    """A display that keeps the notes alone."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def opened(self, *_: Any) -> None: ...
    def row(self, *_: Any) -> None: ...
    def adapted(self, *_: Any) -> None: ...
    def evaluating(self, *_: Any) -> None: ...
    def note(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    train(config(), str(path))
    return path


@pytest.fixture
def every_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every update."""
    monkeypatch.setattr(run_loop, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(run_loop, "CHECKPOINT_SHARE", 1e9)


def checkpoints(path: Path) -> list[Path]:
    return sorted((path / "checkpoints").glob("*.npz"))


@pytest.mark.parametrize("keep", [1, 2, 5])
@pytest.mark.usefixtures("every_update")
def test_as_many_checkpoints_are_kept_as_asked_for(tmp_path: Path, keep: int) -> None:
    train(config(keep_checkpoints=keep), str(tmp_path / "run"))
    names = [path.name for path in checkpoints(tmp_path / "run")]
    assert names == [f"update-{u:010d}.npz" for u in range(9 - keep, 9)]


def damaged(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :])


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped"])
@pytest.mark.parametrize("n_damaged", [1, 2])
@pytest.mark.usefixtures("every_update")
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_it_used(
    whole: Path, tmp_path: Path, how: str, n_damaged: int
) -> None:
    path, notes = tmp_path / "run", Notes()
    train(config(), str(path), should_stop=Stop(6))
    bad = checkpoints(path)[-n_damaged:]
    for file in bad:
        damaged(file, how)
    resume(config(), str(path), display=notes)
    assert contents(path) == contents(whole)
    assert len(notes.texts) == n_damaged
    for file, text in zip(reversed(bad), notes.texts, strict=True):
        assert text.startswith(f"{file}: not a whole es_rl checkpoint file")
        assert Path(f"{file}.damaged").exists()


@pytest.mark.usefixtures("every_update")
def test_without_any_whole_checkpoint_the_run_is_not_begun_again_unasked(tmp_path: Path) -> None:
    path = tmp_path / "run"
    train(config(), str(path), should_stop=Stop(6))
    for file in checkpoints(path):
        damaged(file, "truncated")
    with pytest.raises(ConfigError, match=r"--resume: no checkpoint in .* is whole; start"):
        resume(config(), str(path))


def test_a_checkpoint_of_a_newer_library_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run"
    train(config(updates=2), str(path))
    newest = path / "checkpoints" / "update-0000000003.npz"
    write_npz(newest, {"format": "es_rl checkpoint", "version": 99}, {})
    with pytest.raises(ConfigError, match=r"--resume: .*version 99; this library reads 1 to"):
        resume(config(), str(path))
    assert newest.exists()


@pytest.mark.parametrize("extra", [{}, {"elapsed": "x"}, {"elapsed": 1, "evaluation_steps": None}])
def test_a_checkpoint_that_is_none_of_a_run_is_refused(tmp_path: Path, extra: Any) -> None:
    path = tmp_path / "run"
    train(config(updates=2), str(path))
    header = {"format": "es_rl checkpoint", "version": 1, "extra": extra}
    write_npz(path / "checkpoints" / "update-0000000003.npz", header, {})
    with pytest.raises(ConfigError, match=r"--resume: .*is no checkpoint of a run \("):
        resume(config(), str(path))


def full_disk(*args: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("victim", ["policy.npz", "update-0000000004.npz", "best_policy.npz"])
@pytest.mark.usefixtures("every_update")
def test_a_disk_that_is_full_stops_the_run_and_what_was_saved_stands(
    whole: Path, tmp_path: Path, victim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, replace, left = tmp_path / "run", os.replace, [3]

    def failing(source: str, target: str) -> None:
        # the disk fills up while the victim is written for the third time, or the first
        left[0] -= os.path.basename(target) == victim
        if left[0] <= 0 or (victim in target and victim != "policy.npz"):
            full_disk()
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", failing)
    with pytest.raises(StorageError) as caught:
        train(config(), str(path))
    monkeypatch.undo()
    what = "best_policy.npz" if "best" in victim else "a checkpoint"
    assert str(caught.value) == (
        f"--run-dir {path}: {what} cannot be written (No space left on device); make room or give "
        "access there, then go on with --resume"
    )
    assert not list(path.rglob("*.tmp"))
    with RunFolder.open(str(path)) as folder:
        assert folder.latest_checkpoint() is not None
    resume(config(), str(path))
    assert contents(path) == contents(whole)


class TornFile:
    """A file that takes half of a line, as a disk does that fills up."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, data: bytes) -> int:
        return self.file.write(data[: len(data) // 2])  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_a_line_of_progress_that_does_not_fit_is_told_and_left_out(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = ProgressFile.append

    def full_at_five(self: ProgressFile, row: Row) -> None:
        if row.update == 5:
            self._file = TornFile(self._file)  # type: ignore[assignment]
        append(self, row)

    path = tmp_path / "run"
    monkeypatch.setattr(ProgressFile, "append", full_at_five)
    with pytest.raises(StorageError, match=r"progress\.csv cannot be written \(No space left"):
        train(config(), str(path))
    monkeypatch.undo()
    assert not (path / "progress.csv").read_text().endswith("\n")
    resume(config(), str(path))
    assert contents(path) == contents(whole)


@pytest.mark.parametrize("method", ["__init__", "append", "flush"])
def test_events_that_cannot_be_written_are_told(
    whole: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    monkeypatch.setattr(event_file.EventFile, method, lambda *_, **__: full_disk())
    with pytest.raises(StorageError, match=r"TensorBoard's events cannot be written \(No space"):
        train(config(), str(path))
    monkeypatch.undo()
    resume(config(), str(path))
    assert contents(path) == contents(whole)


def test_a_disk_still_full_at_the_resume_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    train(config(), str(path), should_stop=Stop(3))
    before = {file: file.read_bytes() for file in path.rglob("*.*") if file.is_file()}
    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(StorageError, match=r"config\.yaml cannot be written \(No space left"):
        resume(config(), str(path))
    assert before == {file: file.read_bytes() for file in path.rglob("*.*") if file.is_file()}


ENTRY = (
    "import sys\n"
    "import es_rl.run_loop as loop\n"
    "loop.CHECKPOINT_SECONDS, loop.CHECKPOINT_SHARE = -1.0, 1e9\n"
    "{more}"
    "from es_rl.cli.main import main\n"
    "main()"
)
WORDS = [
    "train", "Swimmer-v4", "--algo", "nres", "--n-pairs", "3", "--unroll-length", "15",
    "--env-kwargs", "max_episode_steps=50", "--eval-every", "3", "--eval-episodes", "2",
    "--updates", "8", "--seed", "5", "--threads", "1", "--run-dir", "run",
]  # fmt: skip
RESUME = ["train", "--run-dir", "run", "--resume"]


def command(
    folder: Path, words: list[str], more: str = "", prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-c", ENTRY.format(more=more), *words],
        cwd=folder, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip


def test_killed_while_a_checkpoint_is_written_the_run_goes_on_bit_for_bit(
    whole: Path, tmp_path: Path
) -> None:
    assert WORDS.count("8") == 1 == SMALL["threads"]
    words = WORDS
    # before anything of the file is there; with half of it written; whole, but without its name;
    # named, before the oldest one is dropped
    for moment in ("fdopen", "half", "replace", "unlink"):
        more = (
            "import os, signal, tempfile\n"
            "import es_rl.files as files, es_rl.run_folder as run_folder\n"
            "saved = [0]\n"
            "def die(): os.kill(os.getpid(), signal.SIGKILL)\n"
            "def dying(function, about):\n"
            "    def call(*args, **kwargs):\n"
            "        saved[0] += about(args)\n"
            "        die() if saved[0] == 2 else None\n"
            "        return function(*args, **kwargs)\n"
            "    return call\n"
            "def any_checkpoint(args): return 'update-' in str(args[-1])\n"
        )
        if moment == "replace":
            more += "files.os.replace = dying(os.replace, any_checkpoint)\n"
        elif moment == "unlink":
            more += "run_folder.os.unlink = dying(os.unlink, any_checkpoint)\n"
        else:
            more += (
                "real = files.write_bytes\n"
                "def write_bytes(path, data):\n"
                "    saved[0] += any_checkpoint((path,))\n"
                "    if saved[0] == 2:\n"
                "        half = tempfile.mkstemp(dir=os.path.dirname(path),\n"
                "            prefix='.' + os.path.basename(path) + '.', suffix='.tmp')[0]\n"
                f"        os.write(half, data[:len(data) // 2 * {moment == 'half'}])\n"
                "        os.fsync(half)\n"
                "        die()\n"
                "    real(path, data)\n"
                "files.write_bytes = write_bytes\n"
            )
        done = command(tmp_path, words, more)
        assert done.returncode == -9, (moment, done.stderr)
        words = RESUME
    done = command(tmp_path, words)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "run") == contents(whole)


def test_leftovers_of_killed_writes_do_not_pile_up(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(whole, path)
    for folder in (path, path / "checkpoints"):
        (folder / ".policy.npz.abc123.tmp").write_bytes(b"half")
    resume(config(), str(path))
    assert not list(path.rglob("*.tmp"))


def test_a_limit_on_the_size_of_files_ends_in_one_line(whole: Path, tmp_path: Path) -> None:
    # the kernel's own refusal: a checkpoint of this run has about 9 kB
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
    done = command(tmp_path, [*WORDS, "--no-tensorboard"], limit)
    assert done.returncode == 1, done.stderr
    assert done.stderr == (
        "error: --run-dir run: a checkpoint cannot be written (File too large); make room or give "
        "access there, then go on with --resume\n"
    )
    done = command(tmp_path, RESUME)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "run") == contents(whole)


def in_namespace(script: str) -> tuple[str, ...]:
    """A prefix for a command that sees mounts of its own; skips where that is not allowed."""
    prefix = ("unshare", "--mount", "sh", "-c", f'{script} && exec "$@"', "sh")
    try:
        subprocess.run([*prefix, "true"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no mounts of one's own here")
    return prefix


def test_a_file_system_without_room_or_without_write_access_ends_in_one_line(
    whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(config(), str(run), should_stop=Stop(4))
    at_start = contents_of(run)
    copy = f"cp -r {run} {tmp_path}/copy && mount -t tmpfs"
    prefix = in_namespace(
        f"rm -rf {tmp_path}/copy && {copy} -o size=64k none {run} && cp -r {tmp_path}/copy/. {run}"
        f" && (dd if=/dev/zero of={run}/ballast bs=1k count=64 2>/dev/null || true)"
    )
    done = command(tmp_path, RESUME, prefix=prefix)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: --run-dir run: config.yaml cannot be written (No space")
    assert done.stderr.count("\n") == 1
    prefix = in_namespace(f"mount --bind {run} {run} && mount -o remount,bind,ro {run}")
    done = command(tmp_path, RESUME, prefix=prefix)
    assert done.returncode == 2, done.stderr
    assert done.stderr == "error: --run-dir run: cannot be written; change its permissions\n"
    assert contents_of(run) == at_start
    done = command(tmp_path, RESUME)
    assert done.returncode == 0, done.stderr
    assert contents(run) == contents(whole)


def contents_of(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def test_the_number_of_points_for_tensorboard_hardly_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_file, "FULL_POINTS", 50)
    sizes = []
    for n in (50, 100, 200, 400, 800):
        rows = [
            Row(u, u, 2 * u, 0, 0.0, 1.0, 1.0, 0, *((1.0, 0.0) if u % 2 == 0 else ()))
            for u in range(1, n + 1)
        ]
        folder = tmp_path / str(n)
        folder.mkdir()
        file = event_file.EventFile(str(folder), rows[:-1])
        file.append(rows[-1], always=True)
        file.close()
        (events,) = folder.iterdir()
        sizes.append(events.stat().st_size)
    steps = [b - a for a, b in pairwise(sizes)]
    # sixteen times the updates in three times the bytes, by about as much with each doubling
    assert sizes[-1] < 3.5 * sizes[0]
    assert max(steps) < 1.2 * sizes[0]
    assert min(steps) > 0


@pytest.mark.parametrize("is_foreseen", [True, False])
def test_more_pairs_than_fit_into_memory_end_in_one_line(tmp_path: Path, is_foreseen: bool) -> None:
    limit = (
        "import resource\nfrom es_rl import run, memory_need\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 29),) * 2)\n"
    )
    if not is_foreseen:
        limit += "memory_need.available_memory = lambda: None\n"
    words = [word if word != "3" else "20000000" for word in WORDS[:6]]
    done = command(tmp_path, [*words, *WORDS[6:8], "--updates", "1", "--run-dir", "run"], limit)
    assert done.returncode == (2 if is_foreseen else 1)
    assert done.stderr.startswith("error: --n-pairs 20000000: there is not enough memory")
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "run").exists() != is_foreseen
