"""`es-rl resume`: go on with a run; the short way to `es-rl train --run-dir RUN --resume`."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from es_rl.options import OPTIONS, ConfigError, flag, parse_value

__all__ = ["resume"]


def _option(name: str) -> Any:
    option = OPTIONS[name]
    return typer.Option(flag(name), help=option.help, metavar=option.kind.metavar)


_Text = str | None


def resume(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of the run.")],
    updates: Annotated[_Text, _option("updates")] = None,
    total_steps: Annotated[_Text, _option("total_steps")] = None,
    sequential_steps: Annotated[_Text, _option("sequential_steps")] = None,
    max_time: Annotated[_Text, _option("max_time")] = None,
    stop_at: Annotated[_Text, _option("stop_at")] = None,
    threads: Annotated[_Text, _option("threads")] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print nothing but the run's folder.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print nothing but the result, as JSON."),
    ] = False,
) -> int:
    """Go on with a run exactly where its last checkpoint stands.

    Give a larger budget to train on after the run's own is used up.
    """
    texts = {
        "updates": updates,
        "total_steps": total_steps,
        "sequential_steps": sequential_steps,
        "max_time": max_time,
        "stop_at": stop_at,
        "threads": threads,
    }
    given = {name: parse_value(name, text) for name, text in texts.items() if text is not None}
    if not os.path.isfile(os.path.join(run, "config.yaml")):
        raise ConfigError(f"RUN {run}: holds no run (it has no config.yaml); name a run's folder")

    from es_rl.cli.session import run_session

    return run_session(
        given,
        preset=None,
        config_file=None,
        run_dir=run,
        resume=True,
        quiet=quiet,
        as_json=as_json,
        is_terminal=sys.stdout.isatty(),
    )
