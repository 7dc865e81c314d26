"""Videos: how many pictures, of what size, what is drawn into them, and whole or not at all."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image, ImageChops, ImageSequence

from es_rl import LinearPolicy, headless
from es_rl.camera import follow_robot
from es_rl.envs.making import make_env
from es_rl.envs.mujoco.quiet import quiet
from es_rl.evaluation import evaluate
from es_rl.policies import Policy
from es_rl.recording import RenderError, draw_caption, fit, play, record


@pytest.fixture(autouse=True, scope="module")
def headless_gl() -> Iterator[None]:
    names = ("MUJOCO_GL", "SDL_VIDEODRIVER", "SDL_AUDIODRIVER")
    before = {name: os.environ.get(name) for name in names}
    headless.use_headless_gl()
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def policy_for(env_id: str, **env_kwargs: Any) -> Policy:
    env = make_env(env_id, **env_kwargs)
    policy = LinearPolicy(env.observation_space, env.action_space)
    env.close()
    policy.theta = -np.random.default_rng(0).normal(0, 1, policy.num_params)
    return policy


def pictures(path: Path, size: tuple[int, int] = (600, 400)) -> list[Image.Image]:
    if path.suffix == ".gif":
        with Image.open(path) as image:
            return [frame.convert("RGB").copy() for frame in ImageSequence.Iterator(image)]
    # imageio_ffmpeg's reader leaves its pipes to the garbage collector, so ffmpeg is asked itself
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-i", str(path), "-f", "rawvideo",
        "-pix_fmt", "rgb24", "-",
    ]  # fmt: skip
    data = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    length = 3 * size[0] * size[1]
    parts = [data[i : i + length] for i in range(0, len(data), length)]
    return [Image.frombytes("RGB", size, part) for part in parts]


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_picture_for_the_start_and_one_for_each_step(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"video{suffix}"
    policy = policy_for("CartPole-v1")
    made = record(policy, "CartPole-v1", path, n_episodes=2, seed=3, fps=25)
    told = evaluate(policy, "CartPole-v1", n_episodes=2, seed=3)
    assert made.rewards == told.rewards.tolist()
    assert made.lengths == told.lengths.tolist()
    assert made.n_frames == told.steps + 2
    assert made.size == (600, 400)
    seen = pictures(path)
    assert len(seen) == made.n_frames
    assert {picture.size for picture in seen} == {(600, 400)}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # and nothing beside it


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_mujoco_renders_in_the_size_asked_for(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"video{suffix}"
    with quiet():
        made = record(policy_for("Swimmer-v4"), "Swimmer-v4", path, n_steps=4, size=(160, 120))
    assert (made.n_frames, made.lengths, made.size) == (5, [4], (160, 120))
    assert made.fps == 25  # the environment's pace, which a GIF can show
    seen = pictures(path, (160, 120))
    assert len(seen) == 5
    below = seen[-1].crop((0, 30, 160, 120))
    assert below.size == (160, 90)
    # a floor of light and dark squares from side to side: neither black nor a stretched corner
    spread = np.asarray(below.convert("L"))
    assert spread.std() > 40
    assert spread[:, :20].max() > 200
    assert spread[:, -20:].max() > 200


@pytest.mark.parametrize("env_id", ["Swimmer-v5", "HalfCheetah-v5", "Hopper-v5"])
def test_the_robot_stays_in_the_picture(env_id: str) -> None:
    def coloured(far: float, **kwargs: Any) -> float:
        """Return the share of the picture that is coloured as robots are, and floor and sky not."""
        env = make_env(env_id, render_mode="rgb_array", **kwargs)
        follow_robot(env, kwargs)
        env.reset(seed=0)
        env.render()  # a camera that stands still looks where the robot was now
        unwrapped: Any = env.unwrapped
        state = unwrapped.data.qpos.copy()
        state[0] += far
        unwrapped.set_state(state, unwrapped.data.qvel.copy())
        red, _, blue = np.moveaxis(np.asarray(env.render(), np.int64), 2, 0)
        env.close()
        return float(np.mean(red - blue > 40))

    with quiet():
        near = coloured(0.0)
        assert near > 0.003
        assert near / 2 < coloured(30.0) < 2 * near
        assert coloured(30.0, camera_id=-1) == 0.0  # a camera of the user's stands


def test_a_gif_that_would_be_too_quick_leaves_out_steps(tmp_path: Path) -> None:
    path = tmp_path / "video.gif"
    made = record(policy_for("CartPole-v1"), "CartPole-v1", path, n_steps=7)
    assert made.fps == 25  # of the environment's 50
    assert made.n_frames == 5  # steps 0, 2, 4, 6 and the last
    with Image.open(path) as image:
        assert image.info["duration"] == 40


def test_step_and_reward_are_in_the_picture(tmp_path: Path) -> None:
    def distance(a: Image.Image, b: Image.Image) -> float:
        return float(np.asarray(ImageChops.difference(a, b).crop((0, 0, 600, 32))).mean())

    env = make_env("CartPole-v1", render_mode="rgb_array")
    policy = policy_for("CartPole-v1")
    record(policy, "CartPole-v1", tmp_path / "video.mp4", n_steps=4)
    seen = pictures(tmp_path / "video.mp4")
    moments = play(policy, env, n_steps=4)
    for picture, moment in zip(seen, moments, strict=True):
        bare = Image.fromarray(env.render())

        def captioned(step: int, reward: float, bare: Image.Image = bare) -> Image.Image:
            return draw_caption(bare, "CartPole-v1", f"step {step}   reward {reward:.1f}")

        step, reward = moment.step, moment.reward
        right = distance(picture, captioned(step, reward))
        for other in ((step + 1, reward), (step, reward + 1), (step, -1.0)):
            # what compression changes is less than what one other figure changes
            assert right < 0.9 * distance(picture, captioned(*other))
        assert right < 0.5 * distance(picture, bare)
    env.close()


@pytest.mark.parametrize("size", [(640, 480), (160, 120), (64, 48), (1920, 1080), (100, 600)])
def test_captions_fit(size: tuple[int, int]) -> None:
    blank = Image.new("RGB", size, (90, 160, 90))
    drawn = draw_caption(blank, "InvertedDoublePendulum-v5", "step 1,000   reward -12,345.6")
    ink = np.asarray(drawn).min(axis=2) > 120  # letters of a few pixels are not quite white
    rows, columns = np.nonzero(ink)
    assert rows.size > 20
    assert columns.min() > 0
    assert columns.max() < size[0] - 1
    band = np.asarray(drawn).sum(axis=2) != (90 + 160 + 90)
    assert rows.max() < band.any(axis=1).sum() - 1  # all letters stand inside the band
    assert not band[size[1] // 2 :].any()


def test_other_shapes_are_padded_and_not_distorted() -> None:
    square = Image.new("RGB", (50, 50), (255, 0, 0))
    wide = np.asarray(fit(square, (200, 100)))
    assert wide.shape == (100, 200, 3)
    red = wide[:, :, 0] > 200
    assert red.sum() == 100 * 100
    assert fit(Image.new("RGB", (33, 21)), None).size == (34, 22)


class Failing(gym.Env[Any, Any]):
    """Breaks in its third step, or gives no picture."""

    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Box(-1, 1, (1,))
    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, picture: bool = True) -> None:
        self.render_mode, self.picture, self.steps = render_mode, picture, 0

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.steps == 3:
            raise KeyboardInterrupt
        return np.zeros(2, np.float32), 1.0, False, False, {}

    def render(self) -> Any:
        return np.zeros((32, 32, 3), np.uint8) if self.picture else None


@pytest.fixture
def failing() -> Iterator[str]:
    gym.register("Failing-v0", Failing, disable_env_checker=True, max_episode_steps=9)
    yield "Failing-v0"
    del gym.registry["Failing-v0"]


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_an_interrupted_video_leaves_what_was_there(
    tmp_path: Path, failing: str, suffix: str
) -> None:
    path = tmp_path / f"video{suffix}"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt):
        record(policy_for(failing), failing, path)
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_environment_without_pictures_is_named(tmp_path: Path, failing: str) -> None:
    with pytest.raises(RenderError, match=r"Failing-v0: gives no pictures.*has rgb_array, ansi"):
        record(policy_for(failing), failing, tmp_path / "v.gif", env_kwargs={"picture": False})
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_made_are_refused(tmp_path: Path) -> None:
    policy = policy_for("CartPole-v1")
    with pytest.raises(ValueError, match=r"v\.avi: a video is one of \.mp4, \.gif"):
        record(policy, "CartPole-v1", tmp_path / "v.avi")
    with pytest.raises(ValueError, match=r"size=\(33, 20\): mp4 takes even"):
        record(policy, "CartPole-v1", tmp_path / "v.mp4", size=(33, 20))


def test_egl_is_chosen_then_osmesa_then_said_to_be_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = {"egl": "ImportError: no EGL", "osmesa": "ImportError: no OSMesa"}
    for works, chosen, told in (
        (("egl", "osmesa"), "egl", None),
        (("osmesa",), "osmesa", "EGL does not work here (ImportError: no EGL): OSMesa renders"),
        ((), "egl", "neither EGL nor OSMesa works here (egl: ImportError: no EGL; osmesa: Imp"),
    ):
        monkeypatch.delenv("MUJOCO_GL", raising=False)
        monkeypatch.setattr(
            headless, "_why_not", lambda name, works=works: None if name in works else broken[name]
        )
        note = headless.use_headless_gl()
        assert os.environ["MUJOCO_GL"] == chosen
        assert note is None if told is None else note is not None and note.startswith(told)
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    assert headless.use_headless_gl() is None
    assert os.environ["MUJOCO_GL"] == "glfw"
