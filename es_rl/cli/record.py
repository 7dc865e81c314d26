"""`es-rl record`: a video of a policy, made without a display."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from es_rl.cli.extras import need_extra
from es_rl.cli.policy_source import open_source, policy_file, read
from es_rl.cli.settings import Checkpoint, ImportModules
from es_rl.option_kinds import Integer, Real
from es_rl.options import ConfigError, check_value

if TYPE_CHECKING:
    from es_rl.recording import Moment

__all__ = ["make_video", "record"]

_FORMATS = (".mp4", ".gif")
_MAX_SIZE = 4096


def record(
    run_or_policy: Annotated[
        str, typer.Argument(metavar="RUN_OR_POLICY", help="Folder of a run, or a policy file.")
    ],
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE", help="Video: .mp4 or .gif.")
    ],
    episodes: Annotated[str, typer.Option(metavar="INTEGER", help="Episodes to record.")] = "1",
    steps: Annotated[
        str | None,
        typer.Option(metavar="INTEGER", help="Stop after so many steps; default: whole episodes."),
    ] = None,
    fps: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER", help="Pictures a second, one a step; default: the environment's pace."
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="WIDTHxHEIGHT", help="In pixels; default: the environment's."),
    ] = None,
    seed: Annotated[
        str, typer.Option(metavar="INTEGER", help="Seed of the first episode; then seed + 1, ...")
    ] = "0",
    checkpoint: Checkpoint = "best",
    import_modules: ImportModules = None,
) -> None:
    """Record episodes as a video, with step and reward in the picture; no display is needed."""
    make_video(
        run_or_policy, output, "-o", episodes=episodes, steps=steps, fps=fps, size=size, seed=seed,
        checkpoint=checkpoint, import_modules=import_modules,
    )  # fmt: skip


def make_video(
    run_or_policy: str,
    output: str,
    option: str,
    *,
    episodes: str,
    seed: str,
    checkpoint: str,
    steps: str | None = None,
    fps: str | None = None,
    size: str | None = None,
    import_modules: list[str] | None = None,
) -> None:
    """Record a video and say what is in it; the arguments are the words of the command line.

    Raises:
        ConfigError: names the option, its value and the way out.
    """
    n_episodes = read("--episodes", Integer(1), episodes)
    first_seed = read("--seed", Integer(0, 2**32 - 1), seed)
    n_steps = None if steps is None else read("--steps", Integer(1), steps)
    rate = None if fps is None else read("--fps", Real(above=0), fps)
    if not output.lower().endswith(_FORMATS):
        raise ConfigError(f"{option} {output}: give the file one of the extensions .mp4, .gif")
    modules = check_value("import_modules", import_modules or [])
    pixels = None if size is None else _read_size(size, output)
    folder = os.path.dirname(output) or "."
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{option} {output}: cannot write in the folder {folder}")
    policy_file(run_or_policy, checkpoint)
    need_extra("video", "record")

    from es_rl.headless import use_headless_gl

    note = use_headless_gl()  # before anything imports MuJoCo

    from es_rl.cli.display import reward_text
    from es_rl.envs.mujoco.quiet import quiet
    from es_rl.recording import RenderError
    from es_rl.recording import record as make_recording

    source = open_source(run_or_policy, checkpoint, modules=modules)
    show = _progress if sys.stderr.isatty() else None
    try:
        with quiet():
            made = make_recording(
                source.policy, source.env_id, output, n_episodes=n_episodes, n_steps=n_steps,
                fps=rate, size=pixels, seed=first_seed, env_kwargs=source.env_kwargs,
                on_moment=show,
            )  # fmt: skip
    except RenderError as error:
        raise ConfigError(f"ENV {error}" + (f"; {note}" if note else "")) from None
    if note is not None:
        print(f"note: {note}", file=sys.stderr)
    if show is not None:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    width, height = made.size
    seconds = made.n_frames / made.fps
    print(f"{output}: {made.n_frames:,} pictures of {width}x{height}, {seconds:.1f} s")
    for i, (reward, length) in enumerate(zip(made.rewards, made.lengths, strict=True)):
        print(f"episode {i + 1} (seed {first_seed + i}): reward {reward_text(reward)}, "
              f"{length:,} steps")  # fmt: skip


def _progress(moment: Moment) -> None:
    if moment.step % 10 == 0 or moment.is_last:
        text = f"episode {moment.episode + 1}, step {moment.step:,}, reward {moment.reward:,.1f}"
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _read_size(text: str, output: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", text.strip().lower())
    sides = tuple(int(side) for side in match.groups()) if match else ()
    if not sides or not all(16 <= side <= _MAX_SIZE for side in sides):
        raise ConfigError(
            f"--size {text}: write WIDTHxHEIGHT in pixels, from 16 to {_MAX_SIZE}, such as 640x480"
        )
    if output.lower().endswith(".mp4") and any(side % 2 for side in sides):
        even = "x".join(str(side + side % 2) for side in sides)
        raise ConfigError(f"--size {text}: mp4 takes even numbers, such as {even}")
    return sides[0], sides[1]
