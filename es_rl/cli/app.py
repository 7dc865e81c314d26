"""The subcommands of `es-rl`. Each loads what it needs when it runs, so help is quick."""

from __future__ import annotations

import functools
from collections.abc import Callable
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

__all__ = ["Interrupted", "UsageError", "app", "usage_text"]

app = typer.Typer(
    name="es-rl",
    help="Train control policies with online evolution strategies.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


class Interrupted(Exception):
    """A KeyboardInterrupt, which typer would turn into an exit code without a word."""


def _interruptible(command: Callable[..., int | None]) -> Callable[..., int | None]:
    @functools.wraps(command)
    def call(*arguments: Any, **options: Any) -> int | None:
        try:
            return command(*arguments, **options)
        except KeyboardInterrupt:
            raise Interrupted from None

    return call


for _command in (
    train, resume, evaluate, enjoy, record, plot, compare, tune, variance, hysteresis, export, envs,
    algos, doctor,
):  # fmt: skip
    app.command()(_interruptible(_command))

# typer shows its users BadParameter, but not the base of all errors of usage
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


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


def usage_text(error: Any) -> str:
    """Return what is wrong with the words of the command line, in one line."""
    if type(error).__name__ == "NoSuchOption":
        flags = [flag for param in error.ctx.command.params for flag in param.opts]
        return f"{error.option_name}: no such option{did_you_mean(error.option_name, flags)}"
    return " ".join(error.format_message().split())
