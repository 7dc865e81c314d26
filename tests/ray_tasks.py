"""Tasks for workers in other processes, which fail or wait there at a chosen moment."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import numpy as np
from systems import EndingSystem, LoopTask


class BadSystem(EndingSystem):
    """Has an infinite loss at the third step of one episode in four hundred."""

    def reset(self, seed):
        super().reset(seed)
        self.is_bad = seed % 401 == 1

    def step(self, theta):
        loss, ended = super().step(theta)
        return (np.inf if self.steps == 3 and self.is_bad else loss), ended


class PausingTask(LoopTask):
    """Once, in the window that θ[2] = 0.75 marks, says so in a file of `folder` and waits.

    Args:
        folder: holds one file for each process that has paused, with its process's number, and
            held by it as long as it waits.
        most: how many processes pause.
    """

    def __init__(self, folder, most=1):
        super().__init__(EndingSystem, 11)
        self.folder, self.most = Path(folder), most

    def unroll(self, rows, thetas, n_steps):
        # the mean of a pair's two rows is θ itself
        if abs(np.mean(thetas[:2, 2]) - 0.75) < 1e-9 and len(self.paused(self.folder)) < self.most:
            name = f"{os.getpid()}"
            with (self.folder.parent / name).open("w") as mine:
                fcntl.flock(mine, fcntl.LOCK_EX)
                os.rename(mine.name, self.folder / name)
                _wait_for(lambda: _end_of(self.folder).exists(), 60.0)
        return super().unroll(rows, thetas, n_steps)

    @staticmethod
    def paused(folder):
        """The processes that have paused."""
        return [int(name) for name in os.listdir(folder)]


def paused(folder, n=1):
    """Wait until n processes have paused; return them."""
    assert _wait_for(lambda: len(PausingTask.paused(folder)) >= n, 120.0), "nothing paused"
    return PausingTask.paused(folder)


def go_on_without_the_dead(folder):
    """Wait until one of those that paused is dead, and end the pause of the others."""
    assert _wait_for(lambda: not all(map(_is_held, folder.iterdir())), 120.0), "none is dead"
    _end_of(folder).touch()


def _is_held(path):
    """Whether the process that made this file still waits."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _end_of(folder):
    """The file, beside the folder, whose existence ends the pause."""
    return Path(f"{folder}.end")


def _wait_for(is_so, seconds):
    """Whether it was so within that time."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
