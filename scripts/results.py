"""Tables and files that the benchmark scripts share."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from es_rl.files import write_text
from es_rl.perturbations import usable_cpus

_PACKAGES = ("es_rl", "mujoco", "gymnasium", "numpy", "numba", "stable-baselines3", "envpool")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return `rows` as a Markdown table, its columns those of the first row."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([str(r[c]) for c in columns] for r in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> dict[str, Any]:
    """Describe what the figures were measured on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return {
        "processor": _processor(),
        "usable processors": usable_cpus(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": found,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as stream:
            for line in stream:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()


def write_json(path: str, figures: Any) -> None:
    """Write `figures` beside a description of the machine, whole or not at all."""
    write_text(path, json.dumps({"machine": machine(), "figures": figures}, indent=1) + "\n")
