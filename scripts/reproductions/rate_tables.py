"""The rates that were tried for each method, as a short table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["rate_table"]


def rate_table(
    tried: Sequence[Mapping[str, Any]], option: str = "learning_rate"
) -> list[dict[str, str]]:
    """Return one row a method from the rows of `training.tune`: what was chosen, and the scores."""
    table: dict[str, dict[str, str]] = {}
    for row in tried:
        own = table.setdefault(row["method"], {"method": row["method"], "chosen": "", "scores": ""})
        if row["chosen"]:
            own["chosen"] = f"{row[option]:g}"
        own["scores"] += f"{', ' if own['scores'] else ''}{row[option]:g}: {row['score']:.4g}"
    return list(table.values())
