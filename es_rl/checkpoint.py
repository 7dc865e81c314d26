"""Training state in files: one .npz, whole or absent, without pickle."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from es_rl.files import read_npz, write_npz
from es_rl.tasks import State
from es_rl.trainer import Trainer

__all__ = ["load_checkpoint", "save_checkpoint"]

_FORMAT = "es_rl checkpoint"
_FORMAT_VERSION = 1


def save_checkpoint(
    path: str | os.PathLike[str],
    trainer: Trainer,
    extra: Mapping[str, Any] | None = None,
    arrays: State | None = None,
) -> None:
    """Write all that continuing `trainer` needs.

    Args:
        path: the file to write.
        trainer: whose state to write.
        extra: JSON-able facts kept beside it.
        arrays: arrays kept beside it, under names of their own; `load_checkpoint` returns them
            among the state, where the trainer passes over them.
    """
    header = {"format": _FORMAT, "version": _FORMAT_VERSION, "extra": dict(extra or {})}
    write_npz(path, header, {**trainer.state_dict(), **(arrays or {})})


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Any], State]:
    """Return (extra, state) of a checkpoint; give `state` to `Trainer.load_state_dict`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a whole checkpoint of a version that this library reads.
    """
    header, state = read_npz(path, _FORMAT, _FORMAT_VERSION)
    return dict(header.get("extra", {})), state
