"""A camera that keeps the robot in the picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym

__all__ = ["follow_robot"]

_CHOSEN = ("camera_id", "camera_name", "default_camera_config")
_CAMERA = "track"  # by this name Gymnasium's models have one that moves with the robot


def follow_robot(env: gym.Env[Any, Any], env_kwargs: Mapping[str, Any]) -> None:
    """Let a MuJoCo environment be seen through its model's own tracking camera.

    Some versions of Gymnasium use a camera that stands still, out of whose sight the robot
    walks or swims. Other environments, and models without such a camera, are left as they are.

    Args:
        env: that was made and not yet rendered.
        env_kwargs: with which it was made; a camera chosen there stands.
    """
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is None or any(name in env_kwargs for name in _CHOSEN):
        return
    import mujoco

    camera = mujoco.mj_name2id(renderer.model, mujoco.mjtObj.mjOBJ_CAMERA, _CAMERA)
    if camera == -1:
        return
    renderer.camera_id = camera  # of pictures
    renderer.default_cam_config = {  # of a window
        **(renderer.default_cam_config or {}),
        "type": int(mujoco.mjtCamera.mjCAMERA_FIXED),
        "fixedcamid": camera,
    }
