"""The `es-rl` command: whatever goes wrong ends in one line and an exit code.

Nothing is imported before `main` runs: a Ctrl-C while things are loaded is met there too.
"""

from __future__ import annotations

import sys
import traceback

__all__ = ["main"]

_NUMBA_CACHE = "numba/core/caching.py"


def main() -> None:
    """Run the command line.

    Exit code 2 and one line on stderr for whatever cannot be used, 1 for an environment that fails
    on the way: one line, and its traceback.
    """
    try:
        code = _run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except OSError as error:
        _fail(_reason(error), 1)
    sys.exit(code)


def _run() -> int:
    from typer import Abort

    from es_rl.cli.app import Interrupted, UsageError, app, usage_text
    from es_rl.option_messages import ConfigError, one_line

    try:
        code = app(prog_name="es-rl", standalone_mode=False)
    except ConfigError as error:
        _fail(str(error), 2)
    except UsageError as error:
        _fail(usage_text(error), 2)
    except (Abort, Interrupted):
        raise KeyboardInterrupt from None
    except RuntimeError as error:
        from es_rl.envs.faults import EnvironmentFaultError

        if not isinstance(error, EnvironmentFaultError):
            raise
        print(f"error: {str(error).partition(chr(10))[0]}", file=sys.stderr)
        print(error.details, file=sys.stderr)
        return 1
    except FloatingPointError as error:
        _fail(one_line(error), 1)
    return code if isinstance(code, int) else 0


def _reason(error: OSError) -> str:
    """Return what a full disk, or a reader that has gone, kept from being written.

    Raises:
        OSError: the error itself, if it was something else.
    """
    why = error.strerror or error
    frames = traceback.extract_tb(error.__traceback__)
    if any(frame.filename.replace("\\", "/").endswith(_NUMBA_CACHE) for frame in frames):
        return (
            f"numba's cache of compiled code cannot be written ({why}); make room where "
            "NUMBA_CACHE_DIR is, or set that to another folder"
        )
    try:
        print(flush=True)  # an empty line, before a traceback, tells whether it was this
    except OSError:
        pass
    else:
        raise error
    from es_rl.cli.output import abandon_output

    abandon_output()
    return f"standard output cannot be written ({why})"


def _fail(text: str, code: int) -> None:
    if text:  # the help was shown instead of an error if no word was given at all
        print(f"error: {text}", file=sys.stderr)
    sys.exit(code)
