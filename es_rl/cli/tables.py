"""Tables on the terminal, and whole in a pipe."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.console import Console
from rich.table import Table

__all__ = ["print_table"]


def print_table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[str] = ()
) -> None:
    """Print rows under titles, never cut or wrapped, however narrow the terminal.

    Args:
        titles: of the columns.
        rows: one text for each column.
        left: titles of the columns that are aligned left; the others hold numbers.
    """
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, justify="left" if title in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    needed = Console(width=10_000).measure(table).maximum
    Console(highlight=False, markup=False, width=needed).print(table, soft_wrap=True)
