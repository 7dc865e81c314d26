"""Environments and keyword arguments that the native engine is held against Gymnasium on."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import gymnasium.envs.mujoco

ASSETS = Path(gymnasium.envs.mujoco.__file__).parent / "assets"

NAMES = (
    *("Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum"),
    *("InvertedPendulum", "Pusher", "Reacher", "Swimmer", "Walker2d"),
)

ENV_IDS = tuple(
    f"{name}-v{version}"
    for name, version in itertools.product(NAMES, (4, 5))
    if (name, version) != ("Pusher", 4)
)
"""The 21 of versions 4 and 5 that run."""

_INF = float("inf")
_HIDDEN = dict.fromkeys(
    (
        "include_cinert_in_observation",
        "include_cvel_in_observation",
        "include_qfrc_actuator_in_observation",
        "include_cfrc_ext_in_observation",
    ),
    False,
)
_ALL_POSITIONS = {"exclude_current_positions_from_observation": False}
_NEVER_ENDS = {"terminate_when_unhealthy": False}

VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Swimmer-v4", {**_ALL_POSITIONS, "reset_noise_scale": 0.3, "forward_reward_weight": 2.5}),
    ("Swimmer-v5", {"frame_skip": 2, "ctrl_cost_weight": 0.7}),
    ("Swimmer-v5", {"xml_file": str(ASSETS / "half_cheetah.xml"), **_ALL_POSITIONS}),
    ("HalfCheetah-v4", {**_ALL_POSITIONS, "reset_noise_scale": 0.01}),
    ("HalfCheetah-v5", {"frame_skip": 3, "forward_reward_weight": 0.3, "ctrl_cost_weight": 1}),
    ("HalfCheetah-v5", {"xml_file": str(ASSETS / "ant.xml"), "frame_skip": 1}),
    ("Hopper-v4", {**_NEVER_ENDS, **_ALL_POSITIONS, "healthy_reward": 2}),
    ("Hopper-v4", {"healthy_state_range": (-5.0, 5.0), "healthy_z_range": (0.5, 1.4)}),
    ("Hopper-v5", {**_NEVER_ENDS, "healthy_angle_range": (-0.1, 0.1), "frame_skip": 8}),
    ("Hopper-v5", {"forward_reward_weight": 2.0, "ctrl_cost_weight": 0.3}),
    ("Hopper-v5", {"healthy_reward": 3, "reset_noise_scale": 0.05}),
    ("Walker2d-v4", {**_NEVER_ENDS, "ctrl_cost_weight": 0.5}),
    ("Walker2d-v5", {**_NEVER_ENDS, "xml_file": "walker2d.xml"}),
    ("Walker2d-v4", {**_ALL_POSITIONS, "healthy_reward": 3, "forward_reward_weight": 0.3}),
    ("Walker2d-v5", {"healthy_reward": 2, "healthy_angle_range": (-0.2, 0.2)}),
    ("Walker2d-v5", {**_ALL_POSITIONS, "healthy_z_range": (1.0, 1.5)}),
    ("Ant-v4", {**_NEVER_ENDS, "use_contact_forces": True, "contact_force_range": (-9.0, 9.0)}),
    ("Ant-v4", {**_ALL_POSITIONS, "use_contact_forces": True, "contact_cost_weight": 0.1}),
    ("Ant-v5", {"include_cfrc_ext_in_observation": False, "main_body": "aux_1"}),
    ("Ant-v5", {**_NEVER_ENDS, "main_body": 3, "healthy_z_range": (0.4, 0.9)}),
    ("Ant-v5", {"forward_reward_weight": 0.7, "contact_cost_weight": 0.1, "healthy_reward": 2}),
    ("Ant-v5", {"ctrl_cost_weight": 0.1, "reset_noise_scale": 0.02}),
    ("Ant-v5", {**_ALL_POSITIONS, "frame_skip": 2, "contact_force_range": (0.0, 1.0)}),
    ("Humanoid-v4", {**_NEVER_ENDS, **_ALL_POSITIONS, "healthy_z_range": (1.3, 1.41)}),
    ("Humanoid-v5", {"contact_cost_weight": 1e-3, "contact_cost_range": (-_INF, 3.0)}),
    ("Humanoid-v5", {**_NEVER_ENDS, "include_cvel_in_observation": False, "frame_skip": 2}),
    ("Humanoid-v5", {**_HIDDEN, "healthy_reward": 1, "forward_reward_weight": 0.5}),
    ("Humanoid-v5", {"include_cinert_in_observation": False, "ctrl_cost_weight": 0.7}),
    ("Humanoid-v5", {"include_qfrc_actuator_in_observation": False, "reset_noise_scale": 0.1}),
    ("Humanoid-v5", {"include_cfrc_ext_in_observation": False, "healthy_z_range": (1.35, 2.0)}),
    ("HumanoidStandup-v5", {**_ALL_POSITIONS, "impact_cost_range": (1.0, 4.0)}),
    ("HumanoidStandup-v5", {**_HIDDEN, "impact_cost_weight": 1e-4, "ctrl_cost_weight": 0.3}),
    ("InvertedPendulum-v5", {"reset_noise_scale": 0.1, "frame_skip": 1}),
    ("InvertedDoublePendulum-v5", {"healthy_reward": 3.0, "reset_noise_scale": 0.02}),
    ("Reacher-v5", {"reward_dist_weight": 2.0, "reward_control_weight": 0.1, "frame_skip": 4}),
    ("Pusher-v5", {"reward_control_weight": 0.7}),
    ("Pusher-v5", {"reward_near_weight": 0.3, "reward_dist_weight": 2, "frame_skip": 3}),
)
"""Keyword arguments that together touch every branch of the families' kernels."""

CASES = (*((env_id, {}) for env_id in ENV_IDS), *VARIANTS)


def case_name(value: Any) -> str:
    """Name a case's keyword arguments for pytest."""
    if isinstance(value, dict):
        return "+".join(value) or "default"
    return str(value)


def unstable_half_cheetah(folder: Path) -> str:
    """Write a model whose time step is too long to be stable; return the file's path."""
    text = (ASSETS / "half_cheetah.xml").read_text()
    path = folder / "unstable.xml"
    path.write_text(re.sub('timestep="[^"]*"', 'timestep="0.1"', text))
    return str(path)
