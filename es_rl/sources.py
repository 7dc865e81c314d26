"""A number that changes with the sources that compiled code is made from."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["digest"]


def digest(*files: str | None) -> int:
    """Return 56 bits of a hash over the contents of source files.

    Numba's disk cache looks at the time stamp of the one file in which a function stands, and so
    would go on using stale code after a change in a function that it inlines from elsewhere. A
    compiled function that holds this number in its cache key is compiled anew: as the default of
    a last parameter, since the type of an omitted argument is part of the key, or as a closure
    variable.
    """
    state = hashlib.sha256()
    for file in files:
        if file is not None:
            state.update(Path(file).read_bytes())
    return int.from_bytes(state.digest()[:7], "little")
