"""`es-rl algos`: the algorithms and how they differ."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from es_rl.options import ALGORITHMS

__all__ = ["algos"]

_COSTS = {
    "nres": ("W", "2·N·W"),
    "pes": ("W", "2·N·W"),
    "gpes": ("W", "2·N·W"),
    "tes": ("W", "3·N·W"),
    "fulles": ("T", "2·N·T"),
    "ars": ("T", "2·N·T"),
}


def algos(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the algorithms."""
    if as_json:
        rows = [
            {"name": name, "description": text, "sequential_steps_per_update": _COSTS[name][0],
             "total_steps_per_update": _COSTS[name][1]}
            for name, text in ALGORITHMS.items()
        ]  # fmt: skip
        print(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("algorithm", "what it is", "sequential", "total", box=None, pad_edge=False)
    for name, text in ALGORITHMS.items():
        table.add_row(name, text, *_COSTS[name])
    console = Console()
    console.print(table)
    console.print(
        "\nSteps of one update: W --unroll-length, N --n-pairs, T --horizon. Sequential steps have"
        " to happen one after another; all pairs run side by side.",
        highlight=False,
    )
