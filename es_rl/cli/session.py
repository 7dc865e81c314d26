"""One call of `es-rl train`: from its options to the last line on the screen."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from es_rl.config_layers import continued, load_config, resolve
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

    @contextmanager
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
        resume: whether to go on with a run.
        quiet: print the run's folder alone.
        as_json: print the result as JSON alone.
        is_terminal: whether there is a screen to draw on.

    Raises:
        ConfigError: before anything is written.
    """
    interrupt = Interrupt()
    with interrupt.installed():
        if resume:
            if run_dir is None:
                raise ConfigError("--resume: name the run to go on with by --run-dir")
            for name, value in (("--config", config_file), ("--preset", preset)):
                if value is not None:
                    raise ConfigError(f"{name} {value}: a resumed run has its config; leave it out")
            # cheap checks first: a mistake is told before numba and MuJoCo are loaded
            from es_rl.run_folder import RunFolder

            RunFolder.check_run(run_dir)
            stored, _ = load_config(f"{run_dir}/config.yaml")
            config, label = continued(stored, given, run_dir), None
        else:
            config, label = resolve(given, config_file=config_file, preset=preset)

        from es_rl import run
        from es_rl.cli.display import LiveDisplay, PlainDisplay, SilentDisplay
        from es_rl.cli.outcome import describe, facts, fail
        from es_rl.distributed import WorkerLostError
        from es_rl.envs.faults import EnvironmentFaultError
        from es_rl.run_folder import StorageError

        display: LiveDisplay | PlainDisplay | SilentDisplay
        if quiet or as_json:
            display = SilentDisplay()
        elif is_terminal:
            display = LiveDisplay()
        else:
            display = PlainDisplay()
        interrupt.on_signal = display.stopping
        try:
            with display:
                if resume:
                    assert run_dir is not None
                    result = run.resume(config, run_dir, display=display, should_stop=interrupt)
                else:
                    result = run.train(
                        config, run_dir, display=display, should_stop=interrupt, preset=label
                    )
        except (FloatingPointError, StorageError, WorkerLostError) as error:
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
    if as_json:
        print(json.dumps(facts(result), indent=2))
    elif quiet:
        print(result.run_dir)
    else:
        display.print(describe(result))
    if result.reason == "interrupted" and interrupt.signal not in (signal.SIGTERM, _HANGUP):
        return 128 + signal.SIGINT
    return 0
