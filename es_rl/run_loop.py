"""A training run in progress: update, evaluate, record, checkpoint, stop."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from es_rl.assembly import Assembly
from es_rl.config import TrainConfig
from es_rl.evaluation import Evaluation, evaluate_on_task
from es_rl.options import BUDGETS, ConfigError
from es_rl.progress import ProgressFile, Row
from es_rl.run_checkpoints import Best
from es_rl.run_folder import RunFolder
from es_rl.starts import Judgement, SeveralStarts
from es_rl.trainer import UpdateRecord
from es_rl.workers import Estimator

if TYPE_CHECKING:
    from es_rl.event_file import EventFile

__all__ = ["Display", "RunLoop", "RunResult"]

FINAL_EPISODES = 20
"""Episodes, at least, of the evaluation that ends a run."""

# evaluations of all updates start from the same states, apart from the first ones of
# `es-rl evaluate`, so that the choice of the best policy does not favour those
_EVALUATION_SEED = 1_000_000_000

CHECKPOINT_SECONDS = 2.0
CHECKPOINT_SHARE = 0.01  # of the run's time that writing checkpoints may take
_FLUSH_SECONDS = 2.0


class RunResult(NamedTuple):
    """How a run, or this session of it, ended.

    Attributes:
        run_dir: its folder.
        reason: the budget that ended it ("updates", "total_steps", "sequential_steps",
            "max_time"), "stop_at", or "interrupted".
        config: the run's config.
        updates: updates made.
        sequential_steps: steps that had to happen one after another.
        total_steps: environment steps executed in training.
        evaluation_steps: environment steps executed in evaluations.
        wall_time: seconds, all sessions together.
        final: the evaluation of the final policy; None if interrupted.
        best: the best evaluated policy; None if nothing was evaluated.
    """

    run_dir: str
    reason: str
    config: TrainConfig
    updates: int
    sequential_steps: int
    total_steps: int
    evaluation_steps: int
    wall_time: float
    final: Evaluation | None
    best: Best | None


class Display(Protocol):
    """Shows a run while it happens; every method may be called often."""

    def opened(self, run_dir: str, config: TrainConfig, elapsed: float) -> None:
        """The folder is there and the run begins, or goes on after `elapsed` seconds."""

    def row(self, row: Row, best: Best | None) -> None:
        """An update was made and, where the row says so, evaluated."""

    def adapted(self, values: Mapping[str, float]) -> None:
        """The update whose row comes next was made with these values of adapted settings."""

    def evaluating(self, n_episodes: int) -> None:
        """An evaluation begins."""

    def note(self, text: str) -> None:
        """Something that the user should know."""


class RunLoop:
    """A run in progress; `_row` is the last update's, recorded once it is known to be whole."""

    def __init__(
        self,
        assembly: Assembly,
        folder: RunFolder,
        display: Display,
        should_stop: Callable[[], bool],
    ) -> None:
        self._config, self._policy = assembly.config, assembly.policy
        self._trainer, self._eval_task = assembly.trainer, assembly.eval_task
        self._folder, self._display, self._should_stop = folder, display, should_stop
        self._evaluation_steps = 0
        self._row: Row | None = None
        self._best: Best | None = None
        self._earlier_rows: list[Row] = []
        self._elapsed = 0.0
        self._checkpoint_cost = 0.0
        self._events: EventFile | None = None
        self._emitted = self._saved_update = -1
        self._flushed_at = self._saved_at = time.monotonic()
        if isinstance(self._trainer, SeveralStarts):
            self._trainer.on_judgement = self._note_judgement

    def restore(self) -> None:
        """Take everything from the folder's last whole checkpoint; nothing if it has none.

        Raises:
            ConfigError: if there are checkpoints, and none can be used.
        """
        checkpoint = self._folder.latest_checkpoint(self._display.note)
        if checkpoint is None:
            return
        self._earlier_rows = self._folder.rows_before(checkpoint.update)
        try:
            self._trainer.load_state_dict(checkpoint.state)
        except ValueError as error:
            raise ConfigError(f"--resume: {checkpoint.path}: {error}") from error
        self._elapsed = checkpoint.elapsed
        self._evaluation_steps = checkpoint.evaluation_steps
        self._row, self._best = checkpoint.row, checkpoint.best
        self._saved_update = checkpoint.update

    def go(self) -> RunResult:
        """Train to the end.

        Raises:
            StorageError: if the folder cannot be written; the last checkpoint stands.
            NonFiniteLossError: if a loss becomes NaN or infinite; likewise.
        """
        self._begin = time.monotonic() - self._elapsed
        self._display.opened(self._folder.path, self._config, self._elapsed)
        self._warn_of_starts()
        with self._folder.writing("progress.csv"):
            self._progress = ProgressFile(self._folder.file("progress.csv"), self._earlier_rows)
        try:
            self._match_best_policy()
            with self._folder.writing("checkpoints"):
                self._folder.remove_leftovers()
            with self._folder.writing("TensorBoard's events"):
                self._folder.remove_events()
                self._events = self._open_events() if self._config.tensorboard else None
            self._earlier_rows = []
            result = self._loop()
            if self._events is not None:
                with self._folder.writing("TensorBoard's events"):
                    self._events.flush()
            return result
        finally:
            self._progress.close()
            if self._events is not None:
                with suppress(OSError):  # whatever could not be written was told above
                    self._events.close()

    def _open_events(self) -> EventFile:
        # imported here: loading tensorboard takes a quarter of a second
        from es_rl.event_file import EventFile

        length = None if self._config.unroll_range is None else self._config.unroll_length
        return EventFile(self._folder.path, self._earlier_rows, self._elapsed, length)

    def _loop(self) -> RunResult:
        self._trainer.start()
        if self._saved_update < 0:
            self._save()
        while (reason := self._reason_to_end()) is None:
            self._emit()
            if time.monotonic() - self._saved_at > self._checkpoint_interval:
                self._save()
            self._row = self._complete(self._trainer.update())
        if self._trainer.updates > self._saved_update:
            self._save()
        final = None
        if reason != "interrupted":
            final = self._evaluate_finally()
        self._emit(is_last=True)
        trainer = self._trainer
        return RunResult(
            run_dir=self._folder.path,
            reason=reason,
            config=self._config,
            updates=trainer.updates,
            sequential_steps=trainer.sequential_steps,
            total_steps=trainer.total_steps,
            evaluation_steps=self._evaluation_steps,
            wall_time=self._now(),
            final=final,
            best=self._best,
        )

    def _warn_of_starts(self) -> None:
        """Tell if the run will end before it is known with which start to go on."""
        c = self._config
        if not c.has_starts or c.total_steps is None:
            return
        assert c.starts is not None
        assert c.start_steps is not None
        if c.total_steps <= c.starts * c.start_steps:
            verb = "ends" if c.start_reward is None else "may end"
            self._display.note(
                f"--total-steps {c.total_steps}: {verb} before {c.starts} starts have had "
                f"{c.start_steps:,} steps each and the best goes on; give more, or --starts 1"
            )

    def _note_judgement(self, judgement: Judgement) -> None:
        """Count and tell what became of a start."""
        self._evaluation_steps += judgement.evaluation_steps
        n_starts = self._config.starts
        text = f"start {judgement.start + 1} of {n_starts}: reward {judgement.reward:,.1f}"
        if judgement.is_last:
            text += (
                f"; training goes on with start {judgement.best + 1}, which has "
                f"{judgement.best_reward:,.1f}"
            )
        self._display.note(text)

    def _now(self) -> float:
        return round(time.monotonic() - self._begin, 3)

    def _reason_to_end(self) -> str | None:
        config, row = self._config, self._row
        for name in BUDGETS:
            limit = getattr(config, name)
            if limit is not None and getattr(self._trainer, name) >= limit:
                return name
        reward = None if row is None else row.eval_reward_mean
        if config.stop_at is not None and reward is not None and reward >= config.stop_at:
            return "stop_at"
        if config.max_time is not None and self._now() >= config.max_time:
            return "max_time"
        return "interrupted" if self._should_stop() else None

    def _complete(self, record: UpdateRecord) -> Row:
        """Return the row of the update just made, with an evaluation if one is due."""
        every = self._config.eval_every
        evaluation = None
        if every and record.update % every == 0:
            evaluation = self._evaluate(self._config.eval_episodes)
        return Row(
            **record._asdict(),
            evaluation_steps=self._evaluation_steps,
            wall_time=self._now(),
            eval_reward_mean=None if evaluation is None else evaluation.mean,
            eval_reward_std=None if evaluation is None else evaluation.std,
        )

    def _evaluate(self, n_episodes: int) -> Evaluation:
        """Evaluate the policy of now, and keep it if it is the best so far."""
        self._display.evaluating(n_episodes)
        trainer = self._trainer
        normalizer = trainer.estimator.normalizer
        evaluation = evaluate_on_task(
            self._eval_task,
            trainer.theta,
            n_episodes=n_episodes,
            seed=_EVALUATION_SEED,
            normalizer=normalizer,
        )
        self._evaluation_steps += evaluation.steps
        if self._best is None or evaluation.mean > self._best.mean:
            self._best = Best(
                trainer.updates,
                trainer.total_steps,
                trainer.sequential_steps,
                evaluation.mean,
                trainer.theta.copy(),
                normalizer,
            )
            self._save_best()
        return evaluation

    def _evaluate_finally(self) -> Evaluation:
        """Evaluate the final policy, and complete the last row with it.

        The checkpoint was written before: a run that goes on with a larger budget forgets this
        evaluation, and equals one that had the larger budget from the start.
        """
        evaluation = self._evaluate(max(FINAL_EPISODES, self._config.eval_episodes))
        if self._row is not None:
            self._row = self._row._replace(
                evaluation_steps=self._evaluation_steps,
                wall_time=self._now(),
                eval_reward_mean=evaluation.mean,
                eval_reward_std=evaluation.std,
            )
        return evaluation

    def _emit(self, *, is_last: bool = False) -> None:
        """Record and show the last update's row."""
        row = self._row
        if row is None or row.update == self._emitted:
            return
        self._emitted = row.update
        estimator = self._trainer.estimator
        adapted = estimator.adapted if isinstance(estimator, Estimator) else {}
        with self._folder.writing("progress.csv"):
            self._progress.append(row)
        if self._events is not None:
            with self._folder.writing("TensorBoard's events"):
                self._events.append(row, sigma=adapted.get("sigma"), always=is_last)
                if time.monotonic() - self._flushed_at > _FLUSH_SECONDS:
                    self._events.flush()
                    self._flushed_at = time.monotonic()
        if adapted:
            self._display.adapted(adapted)
        self._display.row(row, self._best)

    @property
    def _checkpoint_interval(self) -> float:
        return max(CHECKPOINT_SECONDS, self._checkpoint_cost / CHECKPOINT_SHARE)

    def _save(self) -> None:
        """Write the latest policy and a checkpoint."""
        begin = time.monotonic()
        self._policy.theta = self._trainer.theta
        self._policy.normalizer = self._trainer.estimator.normalizer
        with self._folder.writing("a checkpoint"):
            self._progress.sync()
            self._policy.save(self._folder.file("policy.npz"), **self._metadata())
            self._folder.save_checkpoint(
                self._trainer,
                elapsed=self._now(),
                evaluation_steps=self._evaluation_steps,
                row=self._row,
                best=self._best,
                keep=self._config.keep_checkpoints,
            )
        self._saved_at = time.monotonic()
        self._saved_update = self._trainer.updates
        self._checkpoint_cost = self._saved_at - begin

    def _match_best_policy(self) -> None:
        """Make best_policy.npz that of the checkpoint; it may have been ahead of it."""
        if self._best is not None:
            self._save_best()
            return
        with self._folder.writing("best_policy.npz"), suppress(FileNotFoundError):
            os.unlink(self._folder.file("best_policy.npz"))

    def _save_best(self) -> None:
        assert self._best is not None
        best = self._best
        self._policy.theta = best.theta
        self._policy.normalizer = best.normalizer
        with self._folder.writing("best_policy.npz"):
            self._policy.save(
                self._folder.file("best_policy.npz"),
                **self._metadata(best.update, best.total_steps, best.sequential_steps),
                eval_reward_mean=best.mean,
            )

    def _metadata(self, *counts: int) -> dict[str, Any]:
        """Return what a policy file tells of its origin: nothing that threads or time change."""
        config, trainer = self._config, self._trainer
        update, total, sequential = counts or (
            trainer.updates,
            trainer.total_steps,
            trainer.sequential_steps,
        )
        return {
            "env": config.env,
            "env_kwargs": config.env_kwargs,
            "import_modules": list(config.import_modules),
            "horizon": config.horizon,
            "algo": config.algo,
            "seed": config.seed,
            "update": update,
            "total_steps": total,
            "sequential_steps": sequential,
        }
