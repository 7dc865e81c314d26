"""How `es-rl train` shows a run: live on a terminal, line by line elsewhere, or not at all."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TextIO, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from es_rl.cli.output import LossyOutput
from es_rl.config import TrainConfig
from es_rl.options import BUDGETS
from es_rl.progress import Row
from es_rl.run_checkpoints import Best

__all__ = ["LiveDisplay", "PlainDisplay", "SilentDisplay", "reward_text", "time_text"]

_HEARTBEAT_SECONDS = 20.0
_SYMBOLS = {"sigma": "σ", "unroll_length": "W"}


def time_text(seconds: float) -> str:
    """Return seconds as 0:07, 12:30 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def reward_text(mean: float, std: float | None = None) -> str:
    """Return a reward with as many digits as it deserves."""
    digits = 1 if abs(mean) >= 10 else 3
    spread = "" if std is None else f" ± {std:.{digits}f}"
    return f"{mean:,.{digits}f}{spread}"


class _Status:
    """What is known of the run at this moment, in words."""

    def __init__(self) -> None:
        self.run_dir: str | None = None
        self.config: TrainConfig | None = None
        self.row: Row | None = None
        self.evaluated: Row | None = None
        self.best: Best | None = None
        self.is_stopping = False
        self.activity = "loading"
        self.adapted: Mapping[str, float] = {}
        self._origin = time.monotonic()
        self._first: Row | None = None

    def open(self, run_dir: str, config: TrainConfig, elapsed: float) -> None:
        self.run_dir, self.config = run_dir, config
        self._origin = time.monotonic() - elapsed
        self.activity = "starting"

    def take(self, row: Row, best: Best | None) -> None:
        self.row, self.best = row, best
        self._first = self._first or row
        if row.eval_reward_mean is not None:
            self.evaluated = row
        self.activity = "training"

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._origin

    def _used(self, row: Row, now: float) -> float:
        """Return the share of the nearest budget that is used up at `row`, 0 to 1."""
        assert self.config is not None
        counts = {
            "updates": row.update,
            "total_steps": row.total_steps,
            "sequential_steps": row.sequential_steps,
            "max_time": now,
        }
        limits = {name: getattr(self.config, name) for name in counts}
        shares = [counts[name] / limit for name, limit in limits.items() if limit is not None]
        return min(max(shares, default=0.0), 1.0)

    @property
    def share(self) -> float:
        """Share of the run that is done, 0 to 1."""
        return 0.0 if self.row is None else self._used(self.row, self.elapsed)

    @property
    def rate(self) -> float | None:
        """Environment steps a second since the first update of this session."""
        first, row = self._first, self.row
        if first is None or row is None or row.wall_time <= first.wall_time:
            return None
        steps = row.total_steps - first.total_steps + row.evaluation_steps - first.evaluation_steps
        return steps / (row.wall_time - first.wall_time)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the budget is used up, at the pace of this session."""
        first, row = self._first, self.row
        if first is None or row is None or row.wall_time <= first.wall_time:
            return None
        begun, used = self._used(first, first.wall_time), self._used(row, row.wall_time)
        if used <= begun:
            return None
        return max((1.0 - used) * (row.wall_time - first.wall_time) / (used - begun), 0.0)

    def title(self) -> str:
        assert self.config is not None
        c = self.config
        engine = f"{c.engine} engine"
        if c.integrator is not None:
            steps = "" if c.integrator_steps is None else f" for {c.integrator_steps:,} steps"
            engine += f", {c.integrator} integrator{steps}"
        return f"{c.env} · {c.algo} · {c.policy} policy · seed {c.seed} · {engine} · {self.run_dir}"

    def counts(self) -> str:
        """Return the update that the run stands at, against its budgets."""
        if self.row is None or self.config is None:
            return ""
        parts = []
        for name, value in zip(BUDGETS, (self.row.update, self.row.total_steps,
                                         self.row.sequential_steps), strict=True):  # fmt: skip
            limit = getattr(self.config, name)
            of = f" of {limit:,}" if limit is not None else ""
            parts.append(f"{name.replace('_', ' ')} {value:,}{of}")
        return " · ".join([*parts, *self.adapted_words()])

    def adapted_words(self) -> list[str]:
        """Return today's values of the adapted settings, such as "W 50"."""
        return [f"{_SYMBOLS[name]} {value:.4g}" for name, value in self.adapted.items()]

    def evaluation_line(self, row: Row, best: Best | None) -> str:
        """Return what is told of an evaluated row."""
        line = _evaluation_line(row, best, self.rate)
        return " · ".join([line, *self.adapted_words()])

    def pace(self) -> str:
        parts = []
        if self.rate is not None:
            parts.append(f"{self.rate:,.0f} steps/s")
        if self.seconds_left is not None:
            parts.append(f"{time_text(self.seconds_left)} left")
        return " · ".join(parts)


def _evaluation_line(row: Row, best: Best | None, rate: float | None) -> str:
    assert row.eval_reward_mean is not None
    reward = reward_text(row.eval_reward_mean, row.eval_reward_std)
    line = (
        f"update {row.update:>6,} · total {row.total_steps:>11,} · sequential "
        f"{row.sequential_steps:>9,} · reward {reward}"
    )
    if best is not None and best.update != row.update:
        line += f" · best {reward_text(best.mean)}"
    if rate is not None:
        line += f" · {rate:,.0f} steps/s"
    return line


class SilentDisplay:
    """Shows nothing."""

    run_dir: str | None = None
    lost: OSError | None = None
    """What standard output failed with; None if nothing was lost."""

    def __enter__(self) -> SilentDisplay:
        return self

    def __exit__(self, *exception: object) -> None: ...

    def opened(self, run_dir: str, config: TrainConfig, elapsed: float) -> None:
        """Remember the folder."""
        self.run_dir = run_dir

    def row(self, row: Row, best: Best | None) -> None:
        """Show nothing."""

    def adapted(self, values: Mapping[str, float]) -> None:
        """Show nothing."""

    def evaluating(self, n_episodes: int) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def stopping(self) -> None:
        """Show nothing."""

    def print(self, lines: Sequence[str]) -> None:
        """Show nothing."""


class PlainDisplay(SilentDisplay):
    """One line for each evaluation, for logs and pipes."""

    def __init__(self) -> None:
        self._status = _Status()
        self._output = LossyOutput()
        self._last_line = time.monotonic()

    def opened(self, run_dir: str, config: TrainConfig, elapsed: float) -> None:
        """Say what runs, and where."""
        self.run_dir = run_dir
        self._status.open(run_dir, config, elapsed)
        self._line(self._status.title())

    def adapted(self, values: Mapping[str, float]) -> None:
        """Show the values from the next line on."""
        self._status.adapted = values

    def row(self, row: Row, best: Best | None) -> None:
        """Print a line if the row was evaluated, or if there was none for long."""
        self._status.take(row, best)
        if row.eval_reward_mean is not None:
            self._line(self._status.evaluation_line(row, best))
        elif time.monotonic() - self._last_line > _HEARTBEAT_SECONDS:
            parts = (self._status.counts(), self._status.pace())
            self._line(" · ".join(part for part in parts if part))

    def note(self, text: str) -> None:
        """Print the note."""
        self._line(f"note: {text}")

    def stopping(self) -> None:
        """Say that the signal was heard."""
        self._line("stopping after this update; once more to stop at once")

    def print(self, lines: Sequence[str]) -> None:
        """Print lines."""
        for line in lines:
            self._line(line)

    def _line(self, text: str) -> None:
        print(text, file=cast("TextIO", self._output), flush=True)
        self.lost = self._output.error
        self._last_line = time.monotonic()


class LiveDisplay(SilentDisplay):
    """A few lines that stay at the bottom of the terminal, below one line for each evaluation."""

    def __init__(self) -> None:
        self._status = _Status()
        self._output = LossyOutput()
        self._console = Console(file=cast("TextIO", self._output), highlight=False)
        self._live = Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=8,
            transient=True,
        )

    def __enter__(self) -> LiveDisplay:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def opened(self, run_dir: str, config: TrainConfig, elapsed: float) -> None:
        """Say what runs, and where."""
        self.run_dir = run_dir
        self._status.open(run_dir, config, elapsed)
        self._console.print(Text(self._status.title(), "bold"))

    def adapted(self, values: Mapping[str, float]) -> None:
        """Show the values from the next refresh on."""
        self._status.adapted = values

    def row(self, row: Row, best: Best | None) -> None:
        """Show the row at the next refresh; print a line if it was evaluated."""
        self._status.take(row, best)
        if row.eval_reward_mean is not None:
            self._console.print(Text(self._status.evaluation_line(row, best)))

    def evaluating(self, n_episodes: int) -> None:
        """Show that an evaluation is going on."""
        self._status.activity = f"evaluating {n_episodes} episodes"

    def note(self, text: str) -> None:
        """Print the note above the live lines."""
        self._console.print(Text(f"note: {text}", "yellow"))

    def stopping(self) -> None:
        """Show, at the next refresh, that the signal was heard."""
        self._status.is_stopping = True

    def print(self, lines: Sequence[str]) -> None:
        """Print lines, now that the live ones are gone."""
        for line in lines:
            self._console.print(Text(line), soft_wrap=True)
        self.lost = self._output.error

    def _render(self) -> RenderableType:
        status = self._status
        what = "stopping after this update; Ctrl-C to stop at once"
        activity = what if status.is_stopping else status.activity
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(ratio=1)
        bar.add_column(justify="right")
        bar.add_row(
            ProgressBar(total=1.0, completed=status.share),
            f"{100 * status.share:3.0f}% · {time_text(status.elapsed)} · {activity}",
        )
        lines: list[RenderableType] = [bar]
        if status.row is not None:
            lines.append(Text(status.counts()))
            parts = [status.pace()]
            if status.evaluated is not None and status.evaluated.eval_reward_mean is not None:
                mean, std = status.evaluated.eval_reward_mean, status.evaluated.eval_reward_std
                parts.insert(0, f"reward {reward_text(mean, std)}")
            if status.best is not None:
                parts.insert(1, f"best {reward_text(status.best.mean)}")
            lines.append(Text(" · ".join(part for part in parts if part)))
        return Group(*lines)
