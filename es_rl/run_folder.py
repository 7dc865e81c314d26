"""The folder of one training run: what it holds, and how it is made, opened and kept consistent.

    config.yaml        every option as it was resolved, and what it ran on
    progress.csv       one line for each update
    events.out.*       the same for TensorBoard
    policy.npz         the policy at the last checkpoint
    best_policy.npz    the policy with the highest evaluated mean reward
    checkpoints/       the last few states of the whole training, mid-episode copies included

Every file but the two that grow is whole or absent at any moment; those two are cut back to the
checkpoint that a run is resumed from. Of the two, progress.csv has a line for each update; the
events are thinned out, so that their size hardly grows beyond some megabytes.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from es_rl.checkpoint import save_checkpoint
from es_rl.config import TrainConfig
from es_rl.config_layers import dump_config, load_config
from es_rl.files import DamagedFileError, write_text
from es_rl.folder_lock import LockedFolder
from es_rl.options import ConfigError
from es_rl.progress import ProgressFile, Row
from es_rl.run_checkpoints import (
    FOLDER,
    Best,
    Checkpoint,
    checkpoint_file,
    checkpoint_files,
    parts_of,
    read_checkpoint,
)
from es_rl.trainer import Trainer

__all__ = ["RunFolder", "StorageError", "default_run_dir"]

_CONFIG = "config.yaml"


class _TakenError(ConfigError):
    """A folder that something is in already."""


class StorageError(RuntimeError):
    """A run's folder cannot be written any more: the disk is full, or was made read-only."""


def default_run_dir(config: TrainConfig, root: str = "runs") -> str:
    """Return runs/<env>-<algo>-seed<k>-<date-time>, made unique by a number if it is taken."""
    env = re.sub(r"[^\w.-]+", "-", config.env)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    stem = os.path.join(root, f"{env}-{config.algo}-seed{config.seed}-{stamp}")
    path, number = stem, 1
    while os.path.exists(path):
        number += 1
        path = f"{stem}-{number}"
    return path


class RunFolder(LockedFolder):
    """One run's folder, locked against a second process for as long as it is open.

    Use `create` or `open`; close it, or use it in a `with` statement.

    Attributes:
        path: of the folder.
        config: the run's config.
        about: what config.yaml tells beside it.
    """

    def __init__(self, path: str, config: TrainConfig, about: dict[str, Any]) -> None:
        self.path, self.config, self.about = path, config, about
        self._take_lock(path, "--run-dir")

    @staticmethod
    def check_new(path: str) -> None:
        """Refuse a folder that is not empty, but for what a kill in its first moment left.

        Raises:
            ConfigError: says what is in the way, and the way out.
        """
        if RunFolder.holds_run(path):
            raise _TakenError(
                f"--run-dir {path}: holds a run already; add --resume to continue a run, or name "
                "another folder"
            )
        if os.path.isdir(path) and not all(map(_is_leftover, os.listdir(path))):
            raise _TakenError(f"--run-dir {path}: is full already; name another folder")
        if os.path.lexists(path) and not os.path.isdir(path):
            raise ConfigError(f"--run-dir {path}: is a file; name a folder")

    @staticmethod
    def holds_run(path: str) -> bool:
        """Return whether a run was begun in the folder."""
        return os.path.isfile(os.path.join(path, _CONFIG))

    @classmethod
    def create(cls, path: str, config: TrainConfig, about: Mapping[str, Any]) -> RunFolder:
        """Make the folder of a new run; from its first moment it has its config.

        Raises:
            ConfigError: if the folder is in use or cannot be written.
        """
        path = os.path.normpath(path)
        # asked for first: a folder that comes after the check is another run's, and has its lock
        was_there = os.path.isdir(path)
        cls.check_new(path)
        try:
            if was_there:
                return cls._begin_in(path, config, about)
            _make_folder_with(path, _CONFIG, dump_config(config, about))
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                cls.check_new(path)  # somebody was faster
            raise ConfigError(
                f"--run-dir {path}: cannot be written ({error.strerror}); name another folder"
            ) from None
        return cls(path, config, dict(about))

    @classmethod
    def create_anew(cls, config: TrainConfig, about: Mapping[str, Any]) -> RunFolder:
        """Make a folder that no other run has, also where several begin at the same moment.

        Raises:
            ConfigError: if it cannot be written.
        """
        while True:
            try:
                return cls.create(default_run_dir(config), config, about)
            except _TakenError:
                continue

    @classmethod
    def _begin_in(cls, path: str, config: TrainConfig, about: Mapping[str, Any]) -> RunFolder:
        """Do what `create` does in an empty folder that was there before."""
        folder = cls(path, config, dict(about))
        try:
            # another may have begun here before this one had the lock
            cls.check_new(path)
            folder.remove_leftovers()
            write_text(folder.file(_CONFIG), dump_config(config, about))
        except BaseException:
            folder.close()
            raise
        return folder

    @classmethod
    def open(cls, path: str) -> RunFolder:
        """Open the folder of a run that was begun.

        Raises:
            ConfigError: if there is none, it cannot be written, or a process is at work in it.
        """
        path = os.path.normpath(path)
        if not cls.holds_run(path):
            raise ConfigError(f"--run-dir {path}: holds no run (it has no {_CONFIG})")
        if not os.access(path, os.W_OK):
            raise ConfigError(f"--run-dir {path}: cannot be written; change its permissions")
        config, about = load_config(os.path.join(path, _CONFIG))
        return cls(path, config, about)

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Turn the failure of writing `what` inside the block into an error for the user.

        Raises:
            StorageError: names the folder, the reason and the way out.
        """
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"--run-dir {self.path}: {what} cannot be written ({error.strerror or error}); "
                "make room or give access there, then go on with --resume"
            ) from error

    def file(self, name: str) -> str:
        """Return the path of a file in the folder."""
        return os.path.join(self.path, name)

    def rewrite_config(self, config: TrainConfig, about: Mapping[str, Any]) -> None:
        """Write config.yaml anew, for a run that goes on with other budgets."""
        self.config, self.about = config, dict(about)
        write_text(self.file(_CONFIG), dump_config(config, about))

    def remove_leftovers(self) -> None:
        """Remove the halves of files that were being written when a run was killed."""
        for folder in (self.path, self.file(FOLDER)):
            for name in os.listdir(folder) if os.path.isdir(folder) else ():
                if _is_leftover(name):
                    os.unlink(os.path.join(folder, name))

    def remove_events(self) -> None:
        """Remove the TensorBoard files, for a session that writes all points anew."""
        for name in os.listdir(self.path):
            if name.startswith("events.out.tfevents."):
                os.unlink(self.file(name))

    def checkpoints(self) -> list[str]:
        """Return the paths of the checkpoints, oldest first."""
        return checkpoint_files(self.path)

    def save_checkpoint(
        self,
        trainer: Trainer,
        *,
        elapsed: float,
        evaluation_steps: int,
        row: Row | None,
        best: Best | None,
        keep: int = 3,
    ) -> str:
        """Write a checkpoint and drop all but the newest `keep`; return its path."""
        extra, arrays = parts_of(elapsed, evaluation_steps, row, best)
        path = checkpoint_file(self.path, trainer.updates)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        save_checkpoint(path, trainer, extra, arrays)
        for old in self.checkpoints()[:-keep]:
            os.unlink(old)
        return path

    def latest_checkpoint(
        self, note: Callable[[str], None] = lambda text: None
    ) -> Checkpoint | None:
        """Return the newest checkpoint that is whole; None if the run was stopped before its first.

        Newer ones that are damaged are put aside under another name.

        Args:
            note: told of each that is put aside.

        Raises:
            ConfigError: if there are checkpoints and none is whole, or the newest whole one is of
                another version.
        """

        def put_aside(path: str, error: DamagedFileError) -> None:
            with self.writing("checkpoints"):
                os.replace(path, f"{path}.damaged")
            note(f"{error}; it is now {path}.damaged, and the checkpoint before it is used")

        had_any = bool(self.checkpoints())
        newest = read_checkpoint(self.path, "--resume", put_aside)
        if newest is None and had_any:
            raise ConfigError(
                f"--resume: no checkpoint in {self.path} is whole; start the run anew in another "
                "folder"
            )
        return newest

    def rows_before(self, update: int) -> list[Row]:
        """Return the rows of the updates 1 to `update` - 1.

        Raises:
            ConfigError: if progress.csv does not have them.
        """
        if update <= 1:
            return []
        path = self.file("progress.csv")
        try:
            rows = ProgressFile.read(path)[: update - 1]
        except (OSError, ValueError) as error:
            raise ConfigError(f"--resume: {error}; the run cannot go on without it") from None
        if [row.update for row in rows] != list(range(1, update)):
            raise ConfigError(
                f"--resume: {path} does not hold the updates 1 to {update - 1} that the last "
                "checkpoint stands on; it was changed"
            )
        return rows


def _is_leftover(name: str) -> bool:
    """Return whether a file of that name is the half of one, whose writing a kill ended."""
    return name.startswith(".") and name.endswith(".tmp")


def _make_folder_with(path: str, name: str, text: str) -> None:
    """Make the folder `path` with one file in it, both at once.

    A run that is killed in here leaves no folder without a config, which could not be resumed.
    """
    parent, last = os.path.split(os.path.abspath(path))
    os.makedirs(parent, exist_ok=True)
    scratch = tempfile.mkdtemp(dir=parent, prefix=f".{last}.", suffix=".tmp")
    try:
        # mkdtemp makes it private; give it the mode that mkdir() would have given
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(scratch, 0o777 & ~mask)
        write_text(os.path.join(scratch, name), text)
        os.rename(scratch, path)
    except BaseException:
        shutil.rmtree(scratch)
        raise
