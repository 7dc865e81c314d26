"""Tasks for workers in other processes, which fail or wait there at a chosen moment."""

from __future__ import annotations

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
        folder: holds one file for each process that has paused, with its process's number.
        most: how many processes pause.
        seconds: how long they do.
    """

    def __init__(self, folder, most=1, seconds=60.0):
        super().__init__(EndingSystem, 11)
        self.folder, self.most, self.seconds = Path(folder), most, seconds

    def unroll(self, rows, thetas, n_steps):
        # the mean of a pair's two rows is θ itself
        if abs(np.mean(thetas[:2, 2]) - 0.75) < 1e-9 and len(self.paused(self.folder)) < self.most:
            (self.folder / f"{os.getpid()}").touch()
            time.sleep(self.seconds)
        return super().unroll(rows, thetas, n_steps)

    @staticmethod
    def paused(folder):
        """The processes that have paused."""
        return [int(name) for name in os.listdir(folder)]


def paused(folder, n=1):
    """Wait until n processes have paused; return them."""
    deadline = time.monotonic() + 120
    while len(found := PausingTask.paused(folder)) < n:
        assert time.monotonic() < deadline, "nothing paused"
        time.sleep(0.02)
    return found
