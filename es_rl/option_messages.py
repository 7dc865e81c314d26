"""How messages name an option and show its value."""

from __future__ import annotations

import os
import traceback
from typing import Any

__all__ = ["ConfigError", "flag", "one_line", "raised", "shown"]

_SHOWN = 300  # characters of a value in a message

_FLAGS = {"env": "ENV", "import_modules": "--import"}


class ConfigError(ValueError):
    """An option that cannot be used: one line with its name, its value and the way out."""


def flag(name: str) -> str:
    """Return the command line's name of an option."""
    return _FLAGS.get(name, "--" + name.replace("_", "-"))


def shown(value: Any) -> str:
    """Return `value` as a user would type it, in one line of bounded length."""
    try:
        if isinstance(value, bool):
            text = str(value).lower()
        elif isinstance(value, (list, tuple)):
            text = ",".join(map(str, value))
        else:
            text = str(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, or a value within
        text = f"(a {type(value).__name__} too large to show)"
    text = "".join(c if c.isprintable() else " " for c in text)
    if len(text) > _SHOWN:
        return f"{text[:_SHOWN]}..."
    return text


def one_line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    return " ".join(str(error).split())


def raised(error: BaseException) -> str:
    """Return an error of code that is not ours in one line: its kind, what it says, and where."""
    text = f"{type(error).__name__}: {shown(one_line(error))}".removesuffix(": ")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename[0] != "<"]
    # what cannot be compiled says itself where
    if isinstance(error, SyntaxError) or not frames:
        return text
    return f"{text} ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})"
