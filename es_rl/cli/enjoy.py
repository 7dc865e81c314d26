"""`es-rl enjoy`: watch a policy in a window, or write a video of it."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from es_rl.cli.policy_source import Source, open_source, policy_file, read
from es_rl.cli.settings import Checkpoint, ImportModules
from es_rl.option_kinds import Integer
from es_rl.options import ConfigError, check_value

__all__ = ["enjoy"]

_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")


def enjoy(
    run_or_policy: Annotated[
        str, typer.Argument(metavar="RUN_OR_POLICY", help="Folder of a run, or a policy file.")
    ],
    video: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write this .mp4 or .gif instead of opening a window."),
    ] = None,
    episodes: Annotated[str, typer.Option(metavar="INTEGER", help="Episodes to show.")] = "1",
    seed: Annotated[
        str, typer.Option(metavar="INTEGER", help="Seed of the first episode; then seed + 1, ...")
    ] = "0",
    checkpoint: Checkpoint = "best",
    import_modules: ImportModules = None,
) -> None:
    """Watch a policy in a window."""
    if video is not None:
        from es_rl.cli.record import make_video

        make_video(
            run_or_policy, video, "--video", episodes=episodes, seed=seed, checkpoint=checkpoint,
            import_modules=import_modules,
        )  # fmt: skip
        return
    n_episodes = read("--episodes", Integer(1), episodes)
    first_seed = read("--seed", Integer(0, 2**32 - 1), seed)
    modules = check_value("import_modules", import_modules or [])
    policy_file(run_or_policy, checkpoint)
    if sys.platform.startswith("linux") and not any(os.environ.get(name) for name in _DISPLAYS):
        raise ConfigError("enjoy: there is no display to open a window on; add --video FILE.mp4")
    _show(open_source(run_or_policy, checkpoint, modules=modules), n_episodes, first_seed)


def _show(source: Source, n_episodes: int, seed: int) -> None:
    import gymnasium as gym

    from es_rl.camera import follow_robot
    from es_rl.cli.display import reward_text
    from es_rl.envs.making import close_env, make_env
    from es_rl.envs.mujoco.quiet import quiet
    from es_rl.recording import play

    with quiet():
        try:
            env = make_env(source.env_id, **{**source.env_kwargs, "render_mode": "human"})
        except ValueError as error:
            raise ConfigError(f"ENV {error}") from None
        if "human" not in (env.metadata.get("render_modes") or ()):
            close_env(env, source.env_id)
            raise ConfigError(f"ENV {source.env_id}: has no window; add --video FILE.mp4")
        follow_robot(env, source.env_kwargs)
        try:
            for moment in play(source.policy, env, n_episodes=n_episodes, seed=seed):
                if moment.is_last:
                    print(
                        f"episode {moment.episode + 1} (seed {seed + moment.episode}): reward "
                        f"{reward_text(moment.reward)}, {moment.step:,} steps",
                        flush=True,
                    )
        except gym.error.Error as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"ENV {source.env_id}: cannot be shown ({reason})") from None
        finally:
            close_env(env, source.env_id)
