"""Search for good settings with Optuna: the study, and the preset that comes out.

A trial trains with one draw from the space, on seeds apart from those that anybody reports, and
its value is the mean reward of the final policies. Trials are pruned by intermediate evaluations.
Everything is in the study's folder: the journal, one run folder for each trial and seed, and the
preset. A study that was interrupted goes on from it, the runs from their checkpoints.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from es_rl.assembly import check_environment, import_all
from es_rl.config import TrainConfig
from es_rl.config_layers import resolve
from es_rl.envs.making import close_env
from es_rl.files import write_text
from es_rl.folder_lock import LockedFolder
from es_rl.options import BUDGETS, DEFAULT_UNROLL_LENGTH, OPTIONS, WINDOWED, ConfigError, shown
from es_rl.progress import ProgressFile, Row
from es_rl.run_pool import Evaluated, Finished, Job, RunPool, check_same_run, final_reward
from es_rl.search_space import Dimension, dimensions_of, draw
from es_rl.step_budgets import preset_steps, steps_per_update

if TYPE_CHECKING:
    import optuna

__all__ = ["FIRST_SEED", "Outcome", "Study", "TrialEnded"]

FIRST_SEED = 1_000_000
"""Seed of a trial's first run: far from the small numbers that results are reported for."""

PRESET = "preset.yaml"
_JOURNAL = "journal.log"
_STUDY = "es_rl"
_EVALUATIONS = 10  # of a run, for pruning
_EVALUATION_EPISODES = 5
_STARTUP_TRIALS = 5  # before any is pruned
_WARMUP_REPORTS = 2  # of a trial, before it is pruned


class TrialEnded(NamedTuple):
    """A trial ended.

    Attributes:
        number: of the trial.
        state: "complete", "pruned" or "failed".
        value: mean reward of the final policies; None unless complete.
        settings: what it tried.
        error: why it failed.
    """

    number: int
    state: str
    value: float | None
    settings: dict[str, Any]
    error: str | None = None


class Outcome(NamedTuple):
    """How a study stands.

    Attributes:
        n_trials: trials that count: complete, pruned or failed for what they tried.
        best_number: the best complete trial; None if there is none.
        best_value: its mean reward.
        best_settings: what it tried.
        preset: file with its settings; None if there is none.
    """

    n_trials: int
    best_number: int | None = None
    best_value: float | None = None
    best_settings: dict[str, Any] | None = None
    preset: str | None = None


def _value_of(trial: optuna.trial.FrozenTrial) -> float:
    assert trial.value is not None  # it is complete
    return trial.value


class _Active:
    """A trial in training: one run after another, one for each seed."""

    def __init__(self, trial: optuna.Trial, settings: dict[str, Any], jobs: list[Job]) -> None:
        self.trial, self.settings, self.jobs = trial, settings, jobs
        self.rewards: list[float] = []
        self.last_report = 0
        self.is_pruned = False

    @property
    def job(self) -> Job:
        """The run that is trained now."""
        return self.jobs[len(self.rewards)]


class Study(LockedFolder):
    """A study in a folder, locked against a second process while it is open.

    Args:
        folder: of the study; an existing one is gone on with.
        env: environment.
        algo: algorithm.
        fixed: options with a value of their own, which are not searched.
        searched: dimensions that replace those of `es_rl.search_space.SEARCH_SPACE` for the same
            options, or add to them.
        total_steps: budget of each run; None for the preset's.
        n_seeds: runs of a trial.
        env_kwargs: keyword arguments of the environment.
        import_modules: modules to import first.
        preset: settings to start from; None for those of the environment.
        threads: of each run.
        sampler_seed: of Optuna's sampler.

    Raises:
        ConfigError: if options do not fit, or the folder holds a study of something else.
    """

    def __init__(
        self,
        folder: str,
        env: str,
        algo: str,
        *,
        fixed: Mapping[str, Any] | None = None,
        searched: Sequence[Dimension] = (),
        total_steps: int | None = None,
        n_seeds: int = 1,
        env_kwargs: Mapping[str, Any] | None = None,
        import_modules: Sequence[str] = (),
        preset: str | None = None,
        threads: int | None = None,
        sampler_seed: int = 0,
    ) -> None:
        self._folder, self._n_seeds, self._threads = folder, n_seeds, threads
        self._preset, self._sampler_seed = preset, sampler_seed
        import_all(tuple(import_modules))
        made = check_environment(env, dict(env_kwargs or {}))
        close_env(made, env)
        limit = made.spec.max_episode_steps if made.spec is not None else None
        self._given = {
            **(fixed or {}),
            "env": env,
            "algo": algo,
            "env_kwargs": dict(env_kwargs or {}),
            "import_modules": tuple(import_modules),
        }
        searched_names = {dimension.option for dimension in searched}
        if "learning_rate" not in self._given and "lr_schedule" not in searched_names:
            # a preset's schedule goes with the preset's own rate
            self._given.setdefault("lr_schedule", "constant")
        values = dict(self._given)
        if algo in WINDOWED and "unroll_length" not in values:
            # it is searched: a preset's window need not fit an episode made shorter
            length = values.get("horizon") or limit or DEFAULT_UNROLL_LENGTH
            values["unroll_length"] = min(DEFAULT_UNROLL_LENGTH, length)
        base = resolve(values, preset=preset).config.with_horizon(limit)
        self._limit = base.horizon
        if base.horizon is None:
            raise ConfigError(
                f"--set horizon: {env} has no time limit of its own; give the steps of an episode"
            )
        self._budget = total_steps if total_steps is not None else preset_steps(base)
        fixed_names = {name for name in self._given if name not in ("env", "algo")}
        self.dimensions = dimensions_of(base, fixed_names, searched)
        self._open(base)

    def _open(self, base: TrainConfig) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            os.makedirs(self._folder, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"--study {self._folder}: cannot be made ({error.strerror}); name another folder"
            ) from None
        journal = os.path.join(self._folder, _JOURNAL)
        if not os.path.exists(journal) and os.listdir(self._folder):
            raise ConfigError(
                f"--study {self._folder}: holds other files and no study; name another folder"
            )
        self._take_lock(self._folder, "--study")
        try:
            self._study = optuna.create_study(
                study_name=_STUDY,
                storage=JournalStorage(JournalFileBackend(journal)),
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(
                    n_startup_trials=_STARTUP_TRIALS, n_warmup_steps=_WARMUP_REPORTS
                ),
            )
            # a sampler that began with the same seed again would repeat its first draws
            seed = self._sampler_seed + len(self._study.trials)
            self._study.sampler = optuna.samplers.TPESampler(seed=seed)
            self._check_same_study(base)
        except BaseException:
            self.close()
            raise

    def _check_same_study(self, base: TrainConfig) -> None:
        kept = {k: v for k, v in base.to_dict().items() if not OPTIONS[k].resumable}
        for dimension in self.dimensions:
            kept.pop(dimension.option, None)
        about = {
            "env": base.env, "algo": base.algo, "total_steps": self._budget,
            "n_seeds": self._n_seeds, "fixed": kept,
            "space": {d.name: d.describe() for d in self.dimensions},
        }  # fmt: skip
        stored = self._study.user_attrs.get("about")
        if stored is None:
            self._study.set_user_attr("about", about)
        elif stored != about:
            differing = next(name for name in about if about[name] != stored.get(name))
            raise ConfigError(
                f"--study {self._folder}: is a study with another {differing.replace('_', ' ')} "
                f"({shown(stored.get(differing))}); name another folder"
            )

    def run(
        self,
        n_trials: int,
        n_workers: int,
        *,
        on_trial: Callable[[TrialEnded], None] = lambda ended: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Outcome:
        """Search until the study has `n_trials` trials, those of earlier sessions included.

        Args:
            n_trials: that the study shall have.
            n_workers: trials at a time.
            on_trial: called when a trial has ended.
            should_stop: asked often; True saves the runs, and the study can go on.
        """
        self._take_up_interrupted()
        active: dict[str, _Active] = {}
        with RunPool(n_workers) as pool:

            def fill() -> None:
                while pool.has_room and not should_stop():
                    if self._n_ended() + len(active) >= n_trials:
                        return
                    began = self._begin()
                    if len(began.rewards) == len(began.jobs):
                        on_trial(self._complete(began))
                    else:
                        active[began.job.run_dir] = began
                        pool.start(began.job)

            fill()
            for event in pool.events(should_stop):
                entry = active[event.job.run_dir]
                if isinstance(event, Evaluated):
                    if self._report(entry, event.row) and not entry.is_pruned:
                        entry.is_pruned = True
                        pool.stop(event.job)
                    continue
                del active[event.job.run_dir]
                if event.reward is not None:
                    entry.rewards.append(event.reward)
                    if len(entry.rewards) < len(entry.jobs) and not should_stop():
                        active[entry.job.run_dir] = entry
                        pool.start(entry.job)
                        continue
                ended = self._conclude(entry, event)
                if ended is not None:
                    on_trial(ended)
                fill()
        return self._outcome()

    def _n_ended(self) -> int:
        from optuna.trial import TrialState

        return len(self._study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)))

    def _take_up_interrupted(self) -> None:
        """Try again what an earlier session did not finish; its runs go on in their folders."""
        from optuna.trial import TrialState

        for trial in self._study.get_trials(states=(TrialState.RUNNING,)):
            self._study.tell(trial.number, state=TrialState.FAIL)
            if "folder" in trial.user_attrs:
                self._study.enqueue_trial(
                    trial.params, user_attrs={"folder": trial.user_attrs["folder"]}
                )

    def _begin(self) -> _Active:
        """Draw a trial's settings, and take up what its folders hold already."""
        trial = self._study.ask()
        settings = draw(trial, self.dimensions, self._given.get("optimizer"))
        folder = trial.user_attrs.get("folder")
        if folder is None:
            folder = f"trial-{trial.number:04}"
            trial.set_user_attr("folder", folder)
        trial.set_user_attr("settings", settings)
        jobs = []
        for i in range(self._n_seeds):
            config = self._config(settings, FIRST_SEED + i)
            job = Job(config, os.path.join(self._folder, folder, f"seed{config.seed}"))
            jobs.append(job._replace(config=check_same_run(job, f"--study {self._folder}")))
        entry = _Active(trial, settings, jobs)
        for job in jobs:
            path = os.path.join(job.run_dir, "progress.csv")
            rows = ProgressFile.read(path) if os.path.exists(path) else []
            for row in rows:
                if row.eval_reward_mean is not None:
                    self._report(entry, row)
            reward = final_reward(job)
            if reward is None:
                break
            entry.rewards.append(reward)
        return entry

    def _config(self, settings: Mapping[str, Any], seed: int) -> TrainConfig:
        given = {**self._given, **settings, "seed": seed, "total_steps": self._budget}
        given.update(eval_episodes=_EVALUATION_EPISODES, tensorboard=False)
        if self._threads is not None:
            given["threads"] = self._threads
        config = resolve(given, preset=self._preset).config
        updates = self._budget / steps_per_update(config.with_horizon(self._limit))
        given["eval_every"] = max(1, math.floor(updates / _EVALUATIONS))
        return resolve(given, preset=self._preset).config

    def _report(self, entry: _Active, row: Row) -> bool:
        """Tell the study of an evaluation; return whether the trial is to be pruned."""
        share = min(row.total_steps / self._budget, 1.0)
        at = math.floor(_EVALUATIONS * (len(entry.rewards) + share))
        if at <= entry.last_report or row.eval_reward_mean is None:
            return False
        entry.last_report = at
        entry.trial.report(row.eval_reward_mean, at)
        # a run at its end is told whole
        return share < 1.0 and bool(entry.trial.should_prune())

    def _complete(self, entry: _Active) -> TrialEnded:
        value = sum(entry.rewards) / len(entry.rewards)
        self._study.tell(entry.trial, value)
        return TrialEnded(entry.trial.number, "complete", value, entry.settings)

    def _conclude(self, entry: _Active, event: Finished) -> TrialEnded | None:
        """Tell the study how a trial ended; None if it was only interrupted."""
        from optuna.trial import TrialState

        number = entry.trial.number
        if event.error is not None:
            # pruned and not failed: the search shall keep away from what diverges
            entry.trial.set_user_attr("error", event.error)
            self._study.tell(entry.trial, state=TrialState.PRUNED)
            return TrialEnded(number, "failed", None, entry.settings, event.error)
        if len(entry.rewards) == len(entry.jobs):
            return self._complete(entry)
        if entry.is_pruned:
            self._study.tell(entry.trial, state=TrialState.PRUNED)
            return TrialEnded(number, "pruned", None, entry.settings)
        return None

    def _outcome(self) -> Outcome:
        from optuna.trial import TrialState

        complete = self._study.get_trials(states=(TrialState.COMPLETE,))
        if not complete:
            return Outcome(self._n_ended())
        best = max(complete, key=_value_of)
        settings: dict[str, Any] = best.user_attrs["settings"]
        path = os.path.join(self._folder, PRESET)
        write_text(path, self._preset_text(best.number, _value_of(best), settings))
        return Outcome(self._n_ended(), best.number, best.value, settings, path)

    def _preset_text(self, number: int, value: float, settings: Mapping[str, Any]) -> str:
        """Return the best trial's settings as a preset, whole: it builds on no other preset."""
        config = self._config(settings, FIRST_SEED)
        budgets = (*BUDGETS, "max_time", "stop_at")
        left_out = {n for n, o in OPTIONS.items() if o.resumable and n not in budgets}
        left_out |= {"env", "algo", "import_modules", "seed", "engine", "eval_every",
                     "eval_episodes"}  # fmt: skip
        entry = {
            name: option
            for name, option in config.to_dict().items()
            if name not in left_out and option is not None and option != {}
        }
        seeds = f"{FIRST_SEED}" if self._n_seeds == 1 else f"{FIRST_SEED} and on"
        head = (
            f"# For --algo {config.algo}: trial {number} of a search by `es-rl tune`, final reward "
            f"{value:.4g} on seed {seeds}.\n# That value was selected for being high; judge these "
            "settings on other seeds.\n"
        )
        return head + str(yaml.safe_dump({config.env: entry}, sort_keys=False))
