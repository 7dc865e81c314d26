"""What a figure gets to work with, and what it leaves: CSV, PNG and verdicts."""

from __future__ import annotations

import csv
import io
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from results import table, write_json

from es_rl.files import write_text
from es_rl.plotting import save_figure
from reproductions.cells import Cell, CellFunction, compute
from reproductions.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

__all__ = ["SIZES", "Report", "Verdict", "verdict_table"]

T = TypeVar("T")

SIZES = ("quick", "default", "full")
"""quick: seconds, to see that the code works; default: minutes on 2 cores; full: the paper's."""

TUNING_SEED = 1000
"""Settings are chosen on seeds from here on, apart from those that are reported."""


class Verdict(NamedTuple):
    """One claim of the papers beside what came out here.

    Attributes:
        figure: which figure it is of.
        claim: of the paper, in words.
        ours: what came out.
        interval: 95 % interval of `ours`, or what spread is known; "" if it is one exact number.
        seeds: how many seeds `ours` is from.
        agrees: whether it is as the paper says; None if the paper gives no figure.
        seconds: processor time that the figure took, over all processes and earlier calls.
        size: one of SIZES.
    """

    figure: str
    claim: str
    ours: str
    interval: str
    seeds: int
    agrees: bool | None
    seconds: float
    size: str

    @property
    def outcome(self) -> str:
        """Return the last column in words; a quick run is too small to tell."""
        if self.size == "quick":
            return "not judged (quick)"
        if self.agrees is None:
            return "no figure published"
        return "agrees" if self.agrees else "**disagrees**"

    def row(self) -> dict[str, str]:
        """Return the verdict as a row of a table."""
        return {
            "claim": self.claim, "ours": self.ours, "95 % interval": self.interval or "–",
            "seeds": str(self.seeds), "time": _duration(self.seconds), "verdict": self.outcome,
        }  # fmt: skip


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class Report:
    """The work on one figure at one size.

    Args:
        figure: its name.
        size: one of SIZES.
        n_seeds: seeds to report.
        folder: where to put its files; it is made if it is not there.
        n_jobs: processes to compute with.
        fresh: whether everything that is stored there is thrown away.
    """

    def __init__(
        self, figure: str, size: str, n_seeds: int, folder: str, *, n_jobs: int = 1,
        fresh: bool = False,
    ) -> None:  # fmt: skip
        self.figure, self.size, self.n_seeds = figure, size, n_seeds
        self.folder, self.n_jobs = folder, n_jobs
        self.seconds = 0.0
        self.pictures: list[str] = []
        self.tables: dict[str, str] = {}
        self._verdicts: list[Verdict] = []
        self._cells = os.path.join(folder, "cells")
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder, exist_ok=True)

    @property
    def seeds(self) -> list[int]:
        """Return the seeds to report: 0, 1, …"""
        return list(range(self.n_seeds))

    def tuning_seeds(self, n: int) -> list[int]:
        """Return `n` seeds to choose settings on, none of which is reported."""
        return list(range(TUNING_SEED, TUNING_SEED + n))

    def pick(self, quick: T, default: T, full: T) -> T:
        """Return the argument for this size."""
        return {"quick": quick, "default": default, "full": full}[self.size]

    def compute(self, function: CellFunction, cases: Sequence[Mapping[str, Any]]) -> list[Cell]:
        """Call `function(**case)` for each case unless its result is stored; see `cells`.

        Each call uses one thread; the calls are spread over `n_jobs` processes.
        """
        begin = [0.0]

        def tell(cell: Cell, done: int, of: int) -> None:
            begin[0] += cell.seconds
            if of > 1 and (done == of or done % max(1, of // 5) == 0):
                print(f"  {self.figure}: {function.__name__} {done} of {of}", flush=True)

        cells = compute(function, cases, self._cells, n_jobs=self.n_jobs, on_cell=tell)
        self.seconds += begin[0]
        return cells

    def charge(self, seconds: float) -> None:
        """Count time that was not spent in `compute`."""
        self.seconds += seconds

    def write_csv(
        self, name: str, rows: Sequence[Mapping[str, Any]], *, shown: bool = False
    ) -> str:
        """Write `rows` to NAME.csv with the first row's columns, and return its path.

        With `shown` they are also kept in `tables`, for the documentation.
        """
        if shown:
            self.tables[name] = table([{k: _in_words(v) for k, v in row.items()} for row in rows])
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        path = os.path.join(self.folder, f"{name}.csv")
        write_text(path, buffer.getvalue())
        return path

    def save(self, picture: Picture, name: str) -> str:
        """Write a Matplotlib figure to NAME.png and return its path."""
        path = os.path.join(self.folder, f"{name}.png")
        save_figure(picture, path)
        self.pictures.append(path)
        return path

    def verdict(
        self,
        claim: str,
        ours: str | Estimate,
        *,
        agrees: bool | None,
        interval: str | None = None,
        seeds: int | None = None,
    ) -> None:
        """Judge one claim.

        Args:
            claim: of the paper, in words.
            ours: what came out, in words or as an `Estimate` that brings its interval.
            agrees: whether it is as claimed; None if the paper gives no figure.
            interval: of `ours`, if that is in words.
            seeds: that `ours` is from; None for all that are reported.
        """
        if isinstance(ours, Estimate):
            interval = ours.interval() if interval is None else interval
            ours = ours.text()
        self._verdicts.append(
            Verdict(
                figure=self.figure, claim=claim, ours=ours, interval=interval or "",
                seeds=self.n_seeds if seeds is None else seeds,
                agrees=None if agrees is None else bool(agrees), seconds=0.0, size=self.size,
            )
        )  # fmt: skip

    def verdicts(self) -> list[Verdict]:
        """Return the verdicts given so far, with the time that was taken so far."""
        return [verdict._replace(seconds=self.seconds) for verdict in self._verdicts]

    def finish(self) -> list[Verdict]:
        """Write verdicts.json and verdicts.md, and return the verdicts."""
        verdicts = self.verdicts()
        if not verdicts:
            raise RuntimeError(f"{self.figure} gave no verdict")
        write_json(
            os.path.join(self.folder, "verdicts.json"),
            [{**v._asdict(), "outcome": v.outcome.strip("*")} for v in verdicts],
        )
        write_text(os.path.join(self.folder, "verdicts.md"), verdict_table(verdicts) + "\n")
        return verdicts


def _in_words(value: Any) -> str:
    """Return an entry of a table as people write it."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return f"{value:,}"
    if not isinstance(value, (float, np.floating)):
        return "–" if value is None else str(value)
    number = float(value)
    if not math.isfinite(number):
        return "–" if math.isnan(number) else "never"
    is_count = number.is_integer() and 1e3 <= abs(number) < 1e9
    return f"{number:,.0f}" if is_count else f"{number:.4g}"


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """Return the verdicts as a Markdown table."""
    # a bar would begin another column
    rows = [{k: v.replace("|", "\\|") for k, v in verdict.row().items()} for verdict in verdicts]
    return table(rows)
