"""What the shell completes beyond commands and options: values that are names."""

from __future__ import annotations

from collections.abc import Callable, Iterable

__all__ = ["complete_environment", "complete_from"]


def complete_from(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a completion that offers those of `names` that begin as what was typed."""
    known = tuple(names)

    def complete(incomplete: str) -> list[str]:
        return [name for name in known if name.startswith(incomplete)]

    return complete


def complete_environment(incomplete: str) -> list[str]:
    """Offer the environments that have presets, which are known without loading Gymnasium."""
    from es_rl.config_layers import preset_entries

    names = preset_entries("nres")
    # the other entries (default, paper-...) begin with a small letter
    return sorted(name for name in names if name.startswith(incomplete) and name[0].isupper())
