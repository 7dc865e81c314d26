"""Videos of a policy at work: frames, what is drawn into them, mp4 and GIF."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import numpy as np

from es_rl.camera import follow_robot
from es_rl.envs.making import close_env, make_env
from es_rl.episodes import Moment, play_episode
from es_rl.policies import Policy

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FORMATS", "Moment", "Recording", "RenderError", "draw_caption", "fit", "play", "record"]

FORMATS = (".mp4", ".gif")
"""Extensions of the videos that can be written."""

_DEFAULT_FPS = 30.0
_GIF_FPS = 25.0  # browsers slow down pictures that are shown for less than 20 ms
_GIF_COLOURS = 128
_BACKGROUND = (20, 20, 24)
_BAND = (0, 0, 0, 185)
_INK = (255, 255, 255, 255)


class RenderError(RuntimeError):
    """An environment gives no pictures; the text is the reason, in one line."""


class Recording(NamedTuple):
    """What was recorded.

    Attributes:
        rewards: of each episode, its sum of rewards; the last may have been cut off.
        lengths: of each episode, its steps.
        n_frames: pictures in the video.
        fps: pictures a second.
        size: (width, height) in pixels.
    """

    rewards: list[float]
    lengths: list[int]
    n_frames: int
    fps: float
    size: tuple[int, int]


def play(
    policy: Policy,
    env: gym.Env[Any, Any],
    *,
    n_episodes: int = 1,
    n_steps: int | None = None,
    seed: int = 0,
) -> Iterator[Moment]:
    """Run episodes as `es_rl.evaluation.evaluate` does: episode i starts from seed + i.

    Args:
        policy: that acts.
        env: that it acts in.
        n_episodes: episodes to run.
        n_steps: steps after which to end, all episodes together; None for whole episodes.
        seed: of the first episode.

    Yields:
        The start of each episode and the moment after each step.

    Raises:
        EnvironmentFaultError: as `es_rl.episodes.play_episode` does.
        NonFiniteLossError: likewise.
    """
    taken = 0
    name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    for episode in range(n_episodes):
        for moment in play_episode(policy, env, name, episode=episode, seed=seed + episode):
            taken += moment.step > 0
            is_cut = taken == n_steps
            yield moment._replace(is_last=moment.is_last or is_cut)
            if is_cut:
                return


def record(
    policy: Policy,
    env_id: str,
    path: str | os.PathLike[str],
    *,
    n_episodes: int = 1,
    n_steps: int | None = None,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
    on_moment: Callable[[Moment], None] | None = None,
) -> Recording:
    """Record what `play` plays, with the step and the reward so far drawn into each picture.

    The file appears when it is whole; an exception leaves what was there before.

    Args:
        policy: that acts.
        env_id: a registered environment that renders "rgb_array".
        path: .mp4 or .gif.
        n_episodes: as in `play`.
        n_steps: as in `play`.
        fps: pictures a second, one for each step; None for the environment's own pace. A GIF
            shows at most 25 at that pace, leaving out steps between.
        size: (width, height), even numbers for mp4; None for the environment's own.
        seed: as in `play`.
        env_kwargs: keyword arguments of the environment.
        on_moment: called with each moment after it was recorded.

    Raises:
        RenderError: if the environment gives no pictures.
        ValueError: if the file's extension is none of `FORMATS`, `size` is odd for mp4, or the
            policy does not fit.
        NonFiniteLossError: as in `play`.
    """
    path = os.fspath(path)
    extension = os.path.splitext(path)[1].lower()
    if extension not in FORMATS:
        raise ValueError(f"{path}: a video is one of {', '.join(FORMATS)}")
    if extension == ".mp4" and size is not None and (size[0] % 2 or size[1] % 2):
        raise ValueError(f"size={size}: mp4 takes even numbers")
    env = make_env(env_id, **{**(env_kwargs or {}), "render_mode": "rgb_array"})
    moments: dict[int, Moment] = {}
    n_frames = 0
    try:
        policy.check_fits(env, env_id)
        follow_robot(env, env_kwargs or {})
        if size is not None:
            _set_size(env, size)
        pace = fps or float(env.metadata.get("render_fps") or _DEFAULT_FPS)
        # a GIF at the environment's own pace may be too quick to be shown: leave out steps
        stride = math.ceil(pace / _GIF_FPS) if extension == ".gif" and fps is None else 1

        def pictures() -> Iterator[Image]:
            nonlocal n_frames
            for moment in play(policy, env, n_episodes=n_episodes, n_steps=n_steps, seed=seed):
                moments[moment.episode] = moment
                if moment.step % stride == 0 or moment.is_last:
                    picture = fit(_render(env, env_id), size)
                    n_frames += 1
                    yield draw_caption(
                        picture, env_id, f"step {moment.step:,}   reward {moment.reward:,.1f}"
                    )
                if on_moment is not None:
                    on_moment(moment)

        stream = pictures()
        first = next(stream)
        with _whole_or_nothing(path) as scratch:
            write = _write_mp4 if extension == ".mp4" else _write_gif
            write(scratch, first, stream, pace / stride)
    finally:
        close_env(env, env_id)
    return Recording(
        [moment.reward for moment in moments.values()],
        [moment.step for moment in moments.values()],
        n_frames,
        pace / stride,
        first.size,
    )


def _set_size(env: gym.Env[Any, Any], size: tuple[int, int]) -> None:
    """Let a MuJoCo environment render in this size; others are fitted to it afterwards."""
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is not None:
        renderer.width, renderer.height = size
        frame = renderer.model.vis.global_
        frame.offwidth, frame.offheight = (
            max(frame.offwidth, size[0]),
            max(frame.offheight, size[1]),
        )


def _render(env: gym.Env[Any, Any], env_id: str) -> Image:
    """Return the environment's picture of now."""
    from PIL import Image

    try:
        array = env.render()
    except (gym.error.Error, ImportError, AttributeError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RenderError(f"{env_id}: cannot be rendered ({reason})") from error
    if not (isinstance(array, np.ndarray) and array.ndim == 3 and array.shape[2] == 3):
        modes = ", ".join(map(str, env.metadata.get("render_modes") or ["none at all"]))
        raise RenderError(
            f"{env_id}: gives no pictures; it needs the render mode rgb_array, and has {modes}"
        )
    return Image.fromarray(array.astype(np.uint8))


def fit(picture: Image, size: tuple[int, int] | None) -> Image:
    """Return the picture in another size, whole and undistorted, with bars where it leaves room.

    Args:
        picture: any size.
        size: (width, height); None for its own, rounded up to even numbers as mp4 needs.
    """
    from PIL import Image, ImageOps

    if size is None:
        size = (picture.width + picture.width % 2, picture.height + picture.height % 2)
        if size == picture.size:
            return picture
        padded = Image.new("RGB", size, _BACKGROUND)
        padded.paste(picture)
        return padded
    if picture.size == size:
        return picture
    return ImageOps.pad(picture, size, Image.Resampling.LANCZOS, color=_BACKGROUND)


def draw_caption(picture: Image, left: str, right: str) -> Image:
    """Return the picture with a dark band at its top, and text at both ends of the band.

    The text is as large as is easy to read, but never so large that it does not fit; where even
    the smallest does not, the text on the left is left out.
    """
    from PIL import Image, ImageDraw, ImageFont

    width, height = picture.size
    points = max(height // 22, 10)
    while True:
        font = ImageFont.load_default(points)
        needed = font.getlength(right) + 2 * points
        if left:
            needed += font.getlength(left) + points
        if needed <= width or points <= 6:
            break
        # a small picture is better off with large figures than with its environment's name
        left, points = ("", points) if left and points <= 10 else (left, points - 1)
    band = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    pen = ImageDraw.Draw(band)
    pen.rectangle((0, 0, width, round(1.8 * points)), fill=_BAND)
    middle = 0.9 * points
    pen.text((points * 0.7, middle), left, _INK, font, anchor="lm")
    pen.text((width - points * 0.7, middle), right, _INK, font, anchor="rm")
    return Image.alpha_composite(picture.convert("RGBA"), band).convert("RGB")


def _write_mp4(path: str, first: Image, rest: Iterator[Image], fps: float) -> None:
    import imageio_ffmpeg

    writer = imageio_ffmpeg.write_frames(
        path, first.size, fps=fps, codec="libx264", pix_fmt_out="yuv420p", macro_block_size=2,
        quality=7, ffmpeg_log_level="error", output_params=["-f", "mp4"],
    )  # fmt: skip
    try:
        writer.send(None)
        for picture in chain([first], rest):
            writer.send(picture.tobytes())
    finally:
        writer.close()


def _write_gif(path: str, first: Image, rest: Iterator[Image], fps: float) -> None:
    from PIL import Image

    def reduced(picture: Image.Image) -> Image.Image:
        return picture.quantize(_GIF_COLOURS, dither=Image.Dither.NONE)

    with open(path, "wb") as file:  # Pillow would leave it open when a picture fails
        reduced(first).save(
            file, format="GIF", save_all=True, append_images=map(reduced, rest),
            duration=round(1000 / fps), loop=0,
        )  # fmt: skip


@contextmanager
def _whole_or_nothing(path: str) -> Iterator[str]:
    """Give a scratch file to write; it becomes `path` when the block ends without an exception."""
    folder, name = os.path.split(path)
    handle, scratch = tempfile.mkstemp(dir=folder or ".", prefix=f".{name}.", suffix=".tmp")
    os.close(handle)
    try:
        yield scratch
        with open(scratch, "rb") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(scratch, 0o666 & ~mask)
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise
