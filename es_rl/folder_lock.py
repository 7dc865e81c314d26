"""A folder that one process at a time works in."""

from __future__ import annotations

import os
from typing import Self

from es_rl.options import ConfigError

__all__ = ["LockedFolder"]


class LockedFolder:
    """Holds the lock of a folder; close it, or use it in a `with` statement.

    Folders cannot be locked on Windows, where this does nothing.
    """

    _descriptor: int | None = None

    def _take_lock(self, path: str, option: str) -> None:
        """Lock the folder for this process.

        Raises:
            ConfigError: if another process has locked it; `option` is what named the folder.
        """
        try:
            import fcntl
        except ImportError:
            return
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise ConfigError(
                f"{option} {path}: another process is training in it; wait for it, or name another "
                "folder"
            ) from None
        self._descriptor = descriptor

    def close(self) -> None:
        """Give up the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
