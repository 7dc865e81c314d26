"""What some subcommands need beyond the library's own dependencies."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from es_rl.options import ConfigError

__all__ = ["EXTRAS", "need_extra"]

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "plot": ("matplotlib", "scipy"),
    "tune": ("optuna",),
    "video": ("imageio_ffmpeg", "PIL"),
    "onnx": ("onnx",),
}
"""Extras of the package and the modules that they bring."""


def need_extra(extra: str, subject: str) -> None:
    """Refuse to go on without an extra, before any work is done that would be in vain.

    Nothing is imported for it.

    Args:
        extra: key of `EXTRAS`.
        subject: what needs it, such as "plot" or "--format onnx".

    Raises:
        ConfigError: names what is missing and how to install it.
    """
    missing = [module for module in EXTRAS[extra] if find_spec(module) is None]
    if missing:
        names, verb = " and ".join(missing), "is" if len(missing) == 1 else "are"
        raise ConfigError(
            f"{subject}: needs {names}, which {verb} not installed; "
            f"run: pip install 'es_rl[{extra}]'"
        )
