"""Standard output that may fail: a full disk under it, a pipe whose reader has gone."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

__all__ = ["LossyOutput", "abandon_output", "progress_bar"]


class LossyOutput:
    """Standard output that loses text rather than raise where it cannot be written.

    A run must not end because somebody stopped listening to it.

    Attributes:
        error: what it failed with first; None as long as nothing was lost.
    """

    def __init__(self) -> None:
        self._stream: TextIO = sys.stdout
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write what can be written; the rest is taken for it too."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """Let what was written arrive, where it can."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        self.error = self.error or error
        abandon_output(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def abandon_output(stream: TextIO | None = None) -> None:
    """Drop what a stream still holds back, which would fail once more at the exit.

    Args:
        stream: which; None for standard output.
    """
    stream = stream or sys.stdout
    with contextlib.suppress(OSError, ValueError):  # some streams have no descriptor
        descriptor = stream.fileno()
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, descriptor)
        os.close(sink)
        stream.flush()


def progress_bar(*columns: ProgressColumn | str, shown: bool) -> Progress:
    """Return a progress bar on stderr that leaves nothing behind; rich's usual columns if none."""
    from rich.console import Console
    from rich.progress import Progress

    # elsewhere than on a terminal, rich before 14.3 ends even a bar that is not shown with an empty
    # line
    console = Console(stderr=True, force_interactive=None if shown else True)
    return Progress(*columns, console=console, transient=True, disable=not shown)
