"""How messages name an option and show its value."""

from __future__ import annotations

from typing import Any

__all__ = ["ConfigError", "flag", "shown"]

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
