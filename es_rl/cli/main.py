"""The `es-rl` command. Each subcommand loads what it needs when it runs, so help is quick."""

from __future__ import annotations

import sys
from typing import Any

import typer

from es_rl.cli.algos import algos
from es_rl.cli.compare import compare
from es_rl.cli.doctor import doctor
from es_rl.cli.enjoy import enjoy
from es_rl.cli.envs import envs
from es_rl.cli.evaluate import evaluate
from es_rl.cli.export import export
from es_rl.cli.hysteresis import hysteresis
from es_rl.cli.plot import plot
from es_rl.cli.record import record
from es_rl.cli.resume import resume
from es_rl.cli.train import train
from es_rl.cli.tune import tune
from es_rl.cli.variance import variance
from es_rl.option_kinds import did_you_mean
from es_rl.options import ConfigError

__all__ = ["app", "main"]

app = typer.Typer(
    name="es-rl",
    help="Train control policies with online evolution strategies.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command()(train)
app.command()(resume)
app.command()(evaluate)
app.command()(enjoy)
app.command()(record)
app.command()(plot)
app.command()(compare)
app.command()(tune)
app.command()(variance)
app.command()(hysteresis)
app.command()(export)
app.command()(envs)
app.command()(algos)
app.command()(doctor)

# typer shows its users BadParameter, but not the base of all errors of usage
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def _print_version(is_asked: bool) -> None:
    if is_asked:
        import es_rl

        print(es_rl.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(  # eager, or a subcommand would be missed first
        False,
        "--version",
        help="Print the version and stop.",
        is_eager=True,
        callback=_print_version,
    ),
) -> None: ...


def main() -> None:
    """Run the command line.

    Exit code 2 and one line on stderr for whatever cannot be used, 1 for an environment that fails
    on the way: one line, and its traceback.
    """
    try:
        code = app(prog_name="es-rl", standalone_mode=False)
    except ConfigError as error:
        _fail(str(error))
    except _UsageError as error:
        _fail(_usage_text(error))
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except RuntimeError as error:
        from es_rl.envs.faults import EnvironmentFaultError

        if not isinstance(error, EnvironmentFaultError):
            raise
        print(f"error: {str(error).partition(chr(10))[0]}", file=sys.stderr)
        print(error.details, file=sys.stderr)
        sys.exit(1)
    except FloatingPointError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _usage_text(error: Any) -> str:
    """Return what is wrong with the words of the command line, in one line."""
    if type(error).__name__ == "NoSuchOption":
        flags = [flag for param in error.ctx.command.params for flag in param.opts]
        return f"{error.option_name}: no such option{did_you_mean(error.option_name, flags)}"
    return " ".join(error.format_message().split())


def _fail(text: str) -> None:
    if text:  # the help was shown instead of an error if no word was given at all
        print(f"error: {text}", file=sys.stderr)
    sys.exit(2)
