"""What the shell completes beyond commands and options: values that are names."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import typer

from es_rl.options import ALGORITHMS

__all__ = ["complete_environment", "complete_from", "complete_list", "complete_preset"]


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


def complete_list(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a completion of names joined by commas: what comes after the last comma."""
    known = tuple(names)

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        rest = [name for name in known if name not in before.split(",")]
        return [before + comma + name for name in rest if name.startswith(last)]

    return complete


def complete_preset(context: typer.Context, incomplete: str) -> list[str]:
    """Offer the presets of the algorithm that was named, or of nres."""
    from es_rl.config_layers import preset_entries

    algo = str(context.params.get("algo"))
    names = preset_entries(algo if algo in ALGORITHMS else "nres")
    return [name for name in names if name.startswith(incomplete)]
