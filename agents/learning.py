"""The training loop, as Stable-Baselines3's callbacks, loggers and progress bars expect it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, MethodType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ProgressBarCallback
from stable_baselines3.common.utils import safe_mean

from es_rl.agents.episodes import FinishedEpisode
from es_rl.agents.loggers import begin_session, monitor_writer
from es_rl.agents.persistence import PersistentAgent
from es_rl.trainer import UpdateRecord
from es_rl.workers import Estimator

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ESAgent"]


class ESAgent(PersistentAgent):
    """An evolution-strategies agent with the interface of Stable-Baselines3's algorithms."""

    def learn(
        self,
        total_timesteps: int,
        callback: Any = None,
        log_interval: int | None = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train until the first window that reaches the budget.

        Callbacks hear of a window once it is over and θ is updated: `on_step` is called once for
        each of its sequential steps, as for a VecEnv that steps all copies at once, and
        `num_timesteps` grows over these calls to the number of environment steps that all copies
        have really executed. The step-unlocked start comes first and is announced in the same
        way. When `on_step` returns False, training ends with the window that it heard of. A
        Ctrl-C takes effect at a window's end too, where the agent can be saved.

        `locals["dones"]` and `locals["infos"]` hold, for each copy, whether an episode of it
        finished and its return and length. Within the window the exact step is not known: a
        copy's last episode of a window counts at the window's last step, the one before it a
        step earlier, and so on.

        Args:
            total_timesteps: environment steps to execute, all copies together. With
                `reset_num_timesteps=False`, that many more.
            callback: a callback, a list of them, or a function of (locals, globals).
            log_interval: windows between two writes of the log; None for none.
            tb_log_name: name of the run for TensorBoard; None for the class's name.
            reset_num_timesteps: begin the counters, and schedules, at 0. θ, the optimiser and the
                particles go on in any case.
            progress_bar: show one, with tqdm and rich.

        Returns:
            this agent.

        Raises:
            NonFiniteLossError: if a loss becomes NaN or infinite; θ is then as before the window,
                and the particles will start afresh.
            ValueError: if the agent cannot train; names the option that is in the way.
        """
        tb_log_name = type(self).__name__ if tb_log_name is None else tb_log_name
        # an interrupted call may have left steps that nobody was told of
        self.num_timesteps, self._unannounced = self.num_timesteps + self._unannounced, 0
        self._ready()
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        if reset_num_timesteps:
            self.sequential_steps = 0
        elif not self._custom_logger:
            begin_session(self.logger, self.num_timesteps)
        n_windows = 0
        callback.on_training_start(locals(), globals())
        goes_on = True
        while goes_on and not (self._begun and self.num_timesteps >= total_timesteps):
            self._update_current_progress_remaining(self.num_timesteps, max(total_timesteps, 1))
            n_updates = self._n_updates
            goes_on = self._window(callback)
            if self._n_updates > n_updates:
                n_windows += 1
                if log_interval is not None and n_windows % log_interval == 0:
                    self.dump_logs()
        callback.on_training_end()
        return self

    def _init_callback(self, callback: Any, progress_bar: bool = False) -> BaseCallback:
        callback = super()._init_callback(callback, progress_bar)
        _count_exactly(callback)
        return callback

    def _window(self, callback: BaseCallback) -> bool:
        """Execute the start or one window; return False if a callback ends the training."""
        callback.on_rollout_start()
        trainer, recorder = self._ready(), self._recorder
        assert recorder is not None
        advance: Callable[[], UpdateRecord | None]
        advance = trainer.update if self._begun else trainer.start
        before = self.num_timesteps
        total, sequential = trainer.total_steps, trainer.sequential_steps
        n_updates = trainer.optimizer.updates
        with _whole():
            # what a callback or the user did to the policy counts
            trainer.theta[:] = self.policy.core.theta
            try:
                record = advance()
            except BaseException:
                # rows that stopped somewhere inside a window are of no further use
                self._restart_particles()
                raise
            self.policy.core.theta = trainer.theta
            self.policy.core.normalizer = trainer.estimator.normalizer
            self._begun = True
            n_steps = trainer.sequential_steps - sequential
            self._unannounced = trainer.total_steps - total
            self.sequential_steps += n_steps
            self._n_updates += trainer.optimizer.updates - n_updates
        finished = self._record(record, recorder.take_finished())
        executed, goes_on = self._unannounced, True
        announcements = _announcements(finished, n_steps, recorder.n_recorded)
        for step, (dones, infos) in enumerate(announcements, start=1):
            self.num_timesteps = before + executed * step // n_steps
            self._unannounced = before + executed - self.num_timesteps
            self.logger.record("time/sequential_steps", self.sequential_steps - n_steps + step)
            callback.update_locals({"dones": dones, "infos": infos, "record": record})
            if not callback.on_step():
                goes_on = False
                break
        self.num_timesteps, self._unannounced = before + executed, 0
        self.logger.record("time/sequential_steps", self.sequential_steps)
        callback.on_rollout_end()
        return goes_on

    def _record(
        self, record: UpdateRecord | None, episodes: list[FinishedEpisode]
    ) -> list[tuple[int, dict[str, float]]]:
        """Note what a window brought; return (row, description as Monitor's) of its episodes."""
        seconds = round(time.time() - self.start_time / 1e9, 6)
        finished = [(e.row, {"r": e.reward, "l": e.length, "t": seconds}) for e in episodes]
        self._episode_num += len(finished)
        self.ep_info_buffer.extend(info for _, info in finished)
        write = monitor_writer(self._vec_env)
        for _, info in finished:
            write(info)
        if record is not None:
            rate = self._learning_rate_now(record.update)
            self.logger.record("rollout/mean_loss", record.mean_loss)
            self.logger.record("train/gradient_norm", record.gradient_norm)
            self.logger.record("train/learning_rate", rate)
            estimator = self._ready().estimator
            assert isinstance(estimator, Estimator)
            for name, value in estimator.adapted.items():
                self.logger.record(f"train/{name}", value)
            self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        return finished

    def dump_logs(self) -> None:
        """Write the log: what the last window brought, and how far training is.

        `rollout/ep_rew_mean` and `rollout/ep_len_mean` are means over the latest finished
        training episodes, which were played under perturbed parameters.
        """
        elapsed = max((time.time_ns() - self.start_time) / 1e9, 1e-9)
        executed = self.num_timesteps - self._num_timesteps_at_start
        if self.ep_info_buffer:
            for key, name in (("r", "rew"), ("l", "len")):
                mean = safe_mean([info[key] for info in self.ep_info_buffer])
                self.logger.record(f"rollout/ep_{name}_mean", mean)
        self.logger.record("time/fps", int(executed / elapsed))
        self.logger.record("time/time_elapsed", int(elapsed), exclude="tensorboard")
        self.logger.record("time/episodes", self._episode_num, exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)


def _announcements(
    finished: list[tuple[int, dict[str, float]]], n_steps: int, n_rows: int
) -> Iterator[tuple[NDArray[np.bool_], list[dict[str, Any]]]]:
    """Yield (dones, infos) of each sequential step of a window, both of length `n_rows`.

    Each row's last episode is put at the last step, the one before it a step earlier, and so on:
    there are always steps enough, as no episode is shorter than one.
    """
    at_step: dict[int, list[tuple[int, dict[str, float]]]] = {}
    later = dict.fromkeys((row for row, _ in finished), 0)
    for row, info in reversed(finished):
        at_step.setdefault(n_steps - 1 - later[row], []).append((row, info))
        later[row] += 1
    nothing = np.zeros(n_rows, np.bool_)
    no_infos: list[dict[str, Any]] = [{}] * n_rows
    for step in range(n_steps):
        dones, infos = nothing, no_infos
        if step in at_step:
            dones, infos = nothing.copy(), list(no_infos)
            for row, info in at_step[step]:
                dones[row], infos[row] = True, {"episode": info}
        yield dones, infos


def _count_exactly(callback: BaseCallback) -> None:
    """Let progress bars follow `num_timesteps`.

    They add the number of environments at each step, which is not what a step of all copies
    executes here: rows whose twin is still busy wait, and the start staggers them.
    """
    if isinstance(callback, CallbackList):
        for child in callback.callbacks:
            _count_exactly(child)
    elif isinstance(callback, ProgressBarCallback):
        callback._on_step = MethodType(_advance_bar, callback)


def _advance_bar(bar: ProgressBarCallback) -> bool:
    executed = bar.model.num_timesteps - bar.model._num_timesteps_at_start
    bar.pbar.update(executed - bar.pbar.n)
    return True


@contextmanager
def _whole() -> Iterator[None]:
    """Let a Ctrl-C wait for the end of the block; a second one does not wait."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    waiting = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal waiting
        if waiting:
            before(number, frame)
        waiting = True

    signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if waiting:
        before(signal.SIGINT, None)
