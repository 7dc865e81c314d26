"""`es-rl train`: start a run, or go on with one."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from es_rl.cli.completion import complete_environment, complete_from, complete_preset
from es_rl.option_kinds import Choice
from es_rl.options import OPTIONS, REQUIRED, ConfigError, check_value, flag, parse_value, shown

__all__ = ["train"]


def _option(name: str, *names: str) -> Any:
    """Return the typer option of a training option; its text is read by `es_rl.config`."""
    option = OPTIONS[name]
    help_text = option.help
    if option.default not in (None, REQUIRED, (), {}):
        help_text += f" Default: {shown(option.default)}."
    help_text = help_text.replace("[", r"\[")  # rich would take it for markup
    metavar = None if names and "/" in names[0] else option.kind.metavar
    choices = option.kind.choices if isinstance(option.kind, Choice) else None
    return typer.Option(
        *(names or (flag(name),)), help=help_text, metavar=metavar, rich_help_panel=option.group,
        autocompletion=None if choices is None else complete_from(choices),
    )  # fmt: skip


_RUN = "Run"
_Text = str | None
_Flag = bool | None


def train(
    context: typer.Context,
    env: Annotated[
        _Text,
        typer.Argument(
            metavar="ENV",
            help="Environment, such as Swimmer-v4 (see `es-rl envs`).",
            autocompletion=complete_environment,
        ),
    ] = None,
    algo: Annotated[_Text, _option("algo")] = None,
    seed: Annotated[_Text, _option("seed")] = None,
    env_kwargs: Annotated[_Text, _option("env_kwargs")] = None,
    import_modules: Annotated[list[str] | None, _option("import_modules", "--import")] = None,
    engine: Annotated[_Text, _option("engine")] = None,
    threads: Annotated[_Text, _option("threads")] = None,
    workers: Annotated[_Text, _option("workers")] = None,
    ray_address: Annotated[_Text, _option("ray_address")] = None,
    worker_timeout: Annotated[_Text, _option("worker_timeout")] = None,
    step_timeout: Annotated[_Text, _option("step_timeout")] = None,
    updates: Annotated[_Text, _option("updates")] = None,
    total_steps: Annotated[_Text, _option("total_steps")] = None,
    sequential_steps: Annotated[_Text, _option("sequential_steps")] = None,
    max_time: Annotated[_Text, _option("max_time")] = None,
    stop_at: Annotated[_Text, _option("stop_at")] = None,
    n_pairs: Annotated[_Text, _option("n_pairs")] = None,
    unroll_length: Annotated[_Text, _option("unroll_length")] = None,
    noise_period: Annotated[_Text, _option("noise_period")] = None,
    horizon: Annotated[_Text, _option("horizon")] = None,
    integrator: Annotated[_Text, _option("integrator")] = None,
    integrator_steps: Annotated[_Text, _option("integrator_steps")] = None,
    sigma: Annotated[_Text, _option("sigma")] = None,
    staggering: Annotated[_Text, _option("staggering")] = None,
    shaping: Annotated[_Text, _option("shaping")] = None,
    top_pairs: Annotated[_Text, _option("top_pairs")] = None,
    reward_offset: Annotated[_Text, _option("reward_offset")] = None,
    noise: Annotated[_Text, _option("noise")] = None,
    adapt_sigma: Annotated[_Text, _option("adapt_sigma")] = None,
    refresh_drift: Annotated[_Text, _option("refresh_drift")] = None,
    unroll_range: Annotated[_Text, _option("unroll_range")] = None,
    optimizer: Annotated[_Text, _option("optimizer")] = None,
    learning_rate: Annotated[_Text, _option("learning_rate")] = None,
    momentum: Annotated[_Text, _option("momentum")] = None,
    weight_decay: Annotated[_Text, _option("weight_decay")] = None,
    lr_schedule: Annotated[_Text, _option("lr_schedule")] = None,
    starts: Annotated[_Text, _option("starts")] = None,
    start_steps: Annotated[_Text, _option("start_steps")] = None,
    start_reward: Annotated[_Text, _option("start_reward")] = None,
    policy: Annotated[_Text, _option("policy")] = None,
    hidden: Annotated[_Text, _option("hidden")] = None,
    activation: Annotated[_Text, _option("activation")] = None,
    bias: Annotated[_Flag, _option("bias", "--bias/--no-bias")] = None,
    init_scale: Annotated[_Text, _option("init_scale")] = None,
    clip_actions: Annotated[
        _Flag, _option("clip_actions", "--clip-actions/--no-clip-actions")
    ] = None,
    squash_actions: Annotated[
        _Flag, _option("squash_actions", "--squash-actions/--no-squash-actions")
    ] = None,
    normalize_observations: Annotated[
        _Flag,
        _option("normalize_observations", "--normalize-observations/--no-normalize-observations"),
    ] = None,
    observation_clip: Annotated[_Text, _option("observation_clip")] = None,
    eval_every: Annotated[_Text, _option("eval_every")] = None,
    eval_episodes: Annotated[_Text, _option("eval_episodes")] = None,
    tensorboard: Annotated[_Flag, _option("tensorboard", "--tensorboard/--no-tensorboard")] = None,
    keep_checkpoints: Annotated[_Text, _option("keep_checkpoints")] = None,
    preset: Annotated[
        _Text,
        typer.Option(
            metavar="NAME|FILE",
            help="Tuned settings to start from: an environment's name, `default`, or a YAML file; "
            "default: those of ENV.",
            rich_help_panel=_RUN,
            autocompletion=complete_preset,
        ),
    ] = None,
    config: Annotated[
        _Text,
        typer.Option(
            metavar="FILE",
            help="YAML with options, such as another run's config.yaml; options given here win.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    run_dir: Annotated[
        _Text,
        typer.Option(
            metavar="FOLDER",
            help="Folder of the run; default: runs/<env>-<algo>-seed<seed>-<date-time>.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run in --run-dir, perhaps with a larger budget; begin it if there "
            "is none, so that one command can be queued again and again.",
            rich_help_panel=_RUN,
        ),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", help="Print nothing but the run's folder.", rich_help_panel=_RUN),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print nothing but the result, as JSON.", rich_help_panel=_RUN),
    ] = False,
) -> int:
    """Train a policy, starting from settings tuned for the environment and algorithm.

    Without a budget the preset's is used. Ctrl-C saves and says how to go on.
    """
    given = _given(context.params)
    # loaded here: the help needs none of it
    from es_rl.cli.session import run_session

    return run_session(
        given,
        preset=preset,
        config_file=config,
        run_dir=run_dir,
        resume=resume,
        quiet=quiet,
        as_json=as_json,
        is_terminal=sys.stdout.isatty(),
    )


def _given(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the training options that were given, read and checked one by one."""
    given: dict[str, Any] = {}
    for name in OPTIONS:
        value = parameters[name]
        if value is None or value == []:
            continue
        if isinstance(value, str):
            given[name] = parse_value(name, value)
        else:
            given[name] = check_value(name, value)
    unset = [n for n in ("run_dir", "config", "preset") if parameters[n] == ""]
    if unset:
        raise ConfigError(f"{flag(unset[0])}: is empty; give a name or leave it out")
    return given
