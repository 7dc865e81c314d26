"""A pool of workers inside the test's process, with losses on demand."""

from __future__ import annotations

import time

import cloudpickle

from es_rl.distributed.holder import ShareHolder
from es_rl.distributed.pool import Answer, Failure, Loss


def _sent(value):
    """What arrives of `value` in another process."""
    return cloudpickle.loads(cloudpickle.dumps(value))


class HerePool:
    """Workers that are objects here; `faults` says what becomes of which call.

    Args:
        faults: for (worker, number of its call, from 0 on): "before" it is lost before it begins,
            "after" it is lost with its answer, "hangs" it never answers.
        room: what `default_workers` returns.

    Attributes:
        log: (worker, method) of every call.
        received: for each answer, the bytes that it took to send.
    """

    def __init__(self, faults=None, room=2):
        self.faults, self.room = dict(faults or {}), room
        self.log, self.received, self.closed = [], [], False
        self._holders, self._outcomes, self._calls = {}, {}, {}

    def default_workers(self):
        return self.room

    def start(self, worker):
        self._outcomes.pop(worker, None)
        self._holders[worker] = ShareHolder()

    def share(self, value):
        return _sent(value)

    def submit(self, worker, method, *arguments):
        assert worker not in self._outcomes, "a worker takes one call at a time"
        number = self._calls[worker] = self._calls.get(worker, -1) + 1
        self.log.append((worker, method))
        fault = self.faults.get((worker, number))
        if fault == "before":
            self._outcomes[worker] = Loss("it was told to")
            del self._holders[worker]
            return
        try:
            value = getattr(self._holders[worker], method)(*_sent(arguments))
        except (ArithmeticError, RuntimeError, ValueError) as error:
            self._outcomes[worker] = Failure(_sent(error))
            return
        self.received.append((method, len(cloudpickle.dumps(value))))
        self._outcomes[worker] = {
            None: Answer(_sent(value)),
            "after": Loss("it was told to"),
            "hangs": None,
        }[fault]

    def wait(self, workers, timeout):
        there = {i: self._outcomes[i] for i in workers if self._outcomes[i] is not None}
        for i in there:
            del self._outcomes[i]
        if not there:
            time.sleep(timeout)
        return there

    def close(self):
        self.closed = True
        self._holders.clear()
