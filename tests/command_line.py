"""The command line as tests call it, here and in processes of its own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@contextlib.contextmanager
def started(code: str, folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Start `code` with the words in a folder, and end it with the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
