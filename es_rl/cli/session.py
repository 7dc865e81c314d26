"""One call of `es-rl train`: from its options to the last line on the screen."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

from es_rl.config_layers import load_config, requeued, resolve
from es_rl.options import ConfigError

__all__ = ["Interrupt", "run_session"]


_HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none


class Interrupt:
    """Asks the run to end after the current update; a second signal ends it at once.

    A terminal that closes sends SIGHUP, a shell passes it on, and service managers send it beside
    SIGTERM: it asks, and neither presses nor counts as the first of two.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.on_signal: Callable[[], None] = lambda: None

    def __call__(self) -> bool:
        """Return whether the run is to end."""
        return self.signal is not None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        before = self.signal
        if before is None or before == _HANGUP:
            self.signal = number
        elif number != _HANGUP:
            raise KeyboardInterrupt
        if before is None:
            self.on_signal()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Take SIGINT, SIGTERM and SIGHUP inside the block, in the thread that gets signals.

        SIGHUP stays ignored where it is, as under nohup.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [signal.SIGINT, signal.SIGTERM]
        if _HANGUP is not None and signal.getsignal(_HANGUP) != signal.SIG_IGN:
            numbers.append(_HANGUP)
        before = {number: signal.signal(number, self.handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run_session(
    given: Mapping[str, Any],
    *,
    preset: str | None,
    config_file: str | None,
    run_dir: str | None,
    resume: bool,
    quiet: bool,
    as_json: bool,
    is_terminal: bool,
) -> int:
    """Train, show it, and return the exit code.

    A run that was saved because of SIGTERM or SIGHUP exits with 0, as schedulers take anything
    else for a failure and do not requeue it; one saved because of Ctrl-C exits with 130.

    Args:
        given: the explicit training options.
        preset: value of --preset.
        config_file: value of --config.
        run_dir: value of --run-dir.
        resume: whether to go on with the run in `run_dir`, or begin it if there is none.
        quiet: print the run's folder alone.
        as_json: print the result as JSON alone.
        is_terminal: whether there is a screen to draw on.

    Raises:
        ConfigError: before anything is written.
    """
    interrupt = Interrupt()
    with interrupt.installed():
        label = None
        goes_on = resume and _check_folder(
            run_dir, is_run_named="env" in given or config_file is not None
        )
        if goes_on:
            assert run_dir is not None
            stored, _ = load_config(f"{run_dir}/config.yaml")
            config = requeued(stored, given, run_dir, config_file=config_file, preset=preset)
        else:
            config, label = resolve(given, config_file=config_file, preset=preset)

        from es_rl import run
        from es_rl.cli.display import LiveDisplay, PlainDisplay, SilentDisplay
        from es_rl.cli.outcome import describe, facts, fail
        from es_rl.distributed import WorkerLostError
        from es_rl.envs.faults import EnvironmentFaultError
        from es_rl.run_folder import StorageError
        from es_rl.tasks import BrokenTaskError

        display: LiveDisplay | PlainDisplay | SilentDisplay
        if quiet or as_json:
            display = SilentDisplay()
        elif is_terminal:
            display = LiveDisplay()
        else:
            display = PlainDisplay()
        interrupt.on_signal = display.stopping
        try:
            with display, _aside(quiet or as_json):
                if goes_on:
                    assert run_dir is not None
                    result = run.resume(config, run_dir, display=display, should_stop=interrupt)
                else:
                    result = run.train(
                        config, run_dir, display=display, should_stop=interrupt, preset=label
                    )
        except (BrokenTaskError, FloatingPointError, StorageError, WorkerLostError) as error:
            return fail(error, display.run_dir)
        except EnvironmentFaultError as error:
            code = fail(str(error).partition("\n")[0], display.run_dir)
            print(error.details, end="", file=sys.stderr)
            return code
        except MemoryError:
            return fail(
                f"--n-pairs {config.n_pairs}: there is not enough memory for so many copies; give "
                "fewer, or a smaller policy",
                display.run_dir,
            )
        except KeyboardInterrupt:
            return fail("interrupted at once", display.run_dir, 128 + (interrupt.signal or 2))
    if as_json or quiet:
        try:
            text = json.dumps(facts(result), indent=2) if as_json else result.run_dir
            print(text, flush=True)
        except OSError as error:
            _tell_unheard("error", error, result.run_dir)
            return 1
    else:
        display.print(describe(result))
        if display.lost is not None:
            _tell_unheard("note", display.lost, result.run_dir)
    if result.reason == "interrupted" and interrupt.signal not in (signal.SIGTERM, _HANGUP):
        return 128 + signal.SIGINT
    return 0


def _aside(is_wanted: bool) -> contextlib.AbstractContextManager[Any]:
    """Print on standard error what an environment prints, where standard output is for programs."""
    return contextlib.redirect_stdout(sys.stderr) if is_wanted else contextlib.nullcontext()


def _tell_unheard(kind: str, error: OSError, run_dir: str) -> None:
    """Say on standard error that what was printed is lost, and the run is not."""
    from es_rl.cli.output import abandon_output

    abandon_output()
    print(
        f"{kind}: standard output cannot be written ({error.strerror or error}); the run is saved "
        f"in {run_dir}",
        file=sys.stderr,
    )


def _check_folder(run_dir: str | None, *, is_run_named: bool) -> bool:
    """Return whether the folder of --resume holds a run to go on with; else one can begin there.

    Raises:
        ConfigError: if neither can be.
    """
    if run_dir is None:
        raise ConfigError("--resume: name the run to go on with by --run-dir")
    # cheap checks first: a mistake is told before numba and MuJoCo are loaded
    from es_rl.run_folder import RunFolder

    if RunFolder.holds_run(run_dir):
        return True
    if not is_run_named:
        raise ConfigError(
            f"--run-dir {run_dir}: holds no run (it has no config.yaml); name another, or add ENV "
            "and --algo to begin one there"
        )
    RunFolder.check_new(run_dir)
    return False
