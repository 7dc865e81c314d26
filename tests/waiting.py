"""Waiting for what another process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def within(seconds: float, what: Callable[[], Value]) -> Value:
    """Return the first true value of `what`; fail if there is none in that time."""
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value
