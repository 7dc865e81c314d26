"""Whether a run's copies fit into memory, told before anything is begun.

Systems promise more memory than there is and kill a process that takes them at their word, without
a line to its user.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise

from es_rl.config import TrainConfig
from es_rl.estimators import ESTIMATORS
from es_rl.option_messages import ConfigError, shown

__all__ = ["available_memory", "check_memory", "check_widths"]

_DOUBLE = 8
_ROW_BYTES = {"native": 256, "gymnasium": 2048}
"""Of one row beside its parameters, the least that was seen: a smaller estimate refuses nothing
that would fit."""

_CGROUP_LIMITS = ("/sys/fs/cgroup{}/memory.max", "/sys/fs/cgroup/memory{}/memory.limit_in_bytes")
_PREFIX = "MemAvailable:"


def check_widths(hidden: Sequence[int] | None) -> None:
    """Refuse layers that alone are more than fits, before a policy is made of them.

    Raises:
        ConfigError: names --hidden.
    """
    if hidden is None:
        return
    _refuse_policy(hidden, sum(a * b for a, b in pairwise(hidden)) + sum(hidden), rows=1)


def check_memory(config: TrainConfig, num_params: int, row_kind: str) -> None:
    """Refuse a run whose copies do not fit into the memory that is there now.

    Args:
        config: of the run.
        num_params: d.
        row_kind: "native" or "gymnasium", what the rows live in.

    Raises:
        ConfigError: names --hidden if not even one pair fits for it, else --n-pairs.
    """
    available = available_memory()
    if available is None:
        return
    rows = ESTIMATORS[config.algo].rows_per_worker
    # each row has its θ; each pair its ε, and its ξ where that is another
    vectors = rows + 1 + (config.algo in ("pes", "gpes"))
    per_pair = vectors * num_params * _DOUBLE + rows * _ROW_BYTES[row_kind]
    if per_pair > available and config.hidden is not None:
        _refuse_policy(config.hidden, num_params, vectors)
    if config.n_pairs * per_pair > available:
        raise ConfigError(
            f"--n-pairs {config.n_pairs}: there is not enough memory for so many copies "
            f"({_size(config.n_pairs * per_pair)} at least, {_size(available)} available); give "
            f"{max(1, available // per_pair)} at most, or a smaller policy"
        )


def _refuse_policy(hidden: Sequence[int], num_params: int, rows: int) -> None:
    available = available_memory()
    if available is not None and rows * num_params * _DOUBLE > available:
        raise ConfigError(
            f"--hidden {shown(hidden)}: there is not enough memory for a policy of {num_params:,} "
            f"parameters ({_size(rows * num_params * _DOUBLE)} at least, {_size(available)} "
            "available); give smaller layers"
        )


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:,.1f} GiB"


def available_memory() -> int | None:
    """Return how many bytes this process can still have, as far as the system says; else None."""
    found = [_unused_memory(), _cgroup_limit(), _address_space()]
    return min((n for n in found if n is not None), default=None)


def _unused_memory() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as stream:
            lines = [line for line in stream if line.startswith(_PREFIX)]
        return 1024 * int(lines[0].split()[1])
    except (OSError, LookupError, ValueError):
        return None


def _cgroup_limit() -> int | None:
    """Return the limit of the container or job, which counts what others in it use too."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as stream:
            fields = [line.rstrip("\n").split(":", 2) for line in stream]
    except OSError:
        return None
    limits = []
    for _, kinds, path in fields:
        if kinds not in ("", "memory"):
            continue
        # a container sees its own group at the root
        for folder in ("" if path == "/" else path, ""):
            try:
                with open(_CGROUP_LIMITS[kinds != ""].format(folder), encoding="ascii") as stream:
                    limits.append(int(stream.read()))
            except (OSError, ValueError):  # none there, or "max"
                continue
    return min(limits, default=None)


def _address_space() -> int | None:
    """Return what `ulimit -v` leaves."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit == resource.RLIM_INFINITY:
            return None
        with open("/proc/self/statm", encoding="ascii") as stream:
            return max(0, limit - int(stream.read().split()[0]) * os.sysconf("SC_PAGE_SIZE"))
    except (ImportError, OSError, ValueError):
        return None
