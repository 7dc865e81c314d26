"""One training run from its config: made, trained to its end, and gone on with."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import es_rl
from es_rl.assembly import assemble
from es_rl.config import TrainConfig
from es_rl.progress import Row
from es_rl.run_checkpoints import Best
from es_rl.run_folder import RunFolder
from es_rl.run_loop import Display, RunLoop, RunResult

__all__ = ["Display", "RunResult", "resume", "train", "versions"]


class _Silent:
    def opened(self, run_dir: str, config: TrainConfig, elapsed: float) -> None: ...
    def row(self, row: Row, best: Best | None) -> None: ...
    def adapted(self, values: Mapping[str, float]) -> None: ...
    def evaluating(self, n_episodes: int) -> None: ...
    def note(self, text: str) -> None: ...


def versions() -> dict[str, str]:
    """Return the versions of everything that may change a result."""
    found = {"python": platform.python_version(), "es_rl": es_rl.__version__}
    for package in ("mujoco", "gymnasium", "numpy", "numba"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def train(
    config: TrainConfig,
    run_dir: str | None = None,
    *,
    display: Display | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    preset: str | None = None,
) -> RunResult:
    """Start a run and train until the first budget is reached.

    Args:
        config: what to train, and how.
        run_dir: folder of the run, new or empty; None for one of its own under runs/.
        display: shown what happens.
        should_stop: asked after every update; True saves and ends the session.
        preset: where the tuned settings came from, for the record.

    Raises:
        ConfigError: before anything is written.
        NonFiniteLossError: if a loss becomes NaN or infinite; the last checkpoint stands.
        EnvironmentFaultError: if an environment fails; likewise.
        StorageError: if the folder can no longer be written; likewise.
    """
    if run_dir is not None:
        RunFolder.check_new(run_dir)
    with assemble(config) as assembly:
        about: dict[str, Any] = {"num_params": assembly.policy.num_params}
        if preset is not None:
            about["preset"] = preset
        about["sessions"] = [_session()]
        if run_dir is None:
            begun = RunFolder.create_anew(assembly.config, about)
        else:
            begun = RunFolder.create(run_dir, assembly.config, about)
        with begun as folder:
            return RunLoop(assembly, folder, display or _Silent(), should_stop).go()


def resume(
    config: TrainConfig,
    run_dir: str,
    *,
    display: Display | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> RunResult:
    """Go on with a run from its last checkpoint, bit for bit as if it had not been interrupted.

    Args:
        config: the run's, perhaps with other budgets (`es_rl.config_layers.continued`).
        run_dir: folder of the run.
        display: as in `train`.
        should_stop: as in `train`.

    Raises:
        ConfigError: if there is no run to go on with.
        NonFiniteLossError, EnvironmentFaultError, StorageError: as in `train`.
    """
    shown = display or _Silent()
    with RunFolder.open(run_dir) as folder, assemble(config) as assembly:
        run = RunLoop(assembly, folder, shown, should_stop)
        run.restore()
        _add_session(folder, assembly.config, shown)
        return run.go()


def _add_session(folder: RunFolder, config: TrainConfig, display: Display) -> None:
    """Note in config.yaml that the run goes on, and tell if it does so under other versions."""
    session = _session()
    told = folder.about.get("sessions")
    sessions = [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []
    before = (sessions[-1].get("versions") or {}) if sessions else {}
    changed = [
        f"{name} {before[name]}, now {now}"
        for name, now in session["versions"].items()
        if name in before and before[name] != now
    ]
    with folder.writing("config.yaml"):
        folder.rewrite_config(config, {**folder.about, "sessions": [*sessions, session]})
    if changed:
        display.note(
            f"the run used {'; '.join(changed)}: it may not go on bit for bit as it would have"
        )


def _session() -> dict[str, Any]:
    return {
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": " ".join(sys.argv),
        "versions": versions(),
    }
