"""Observations as vectors: every number of them, or an error."""

from __future__ import annotations

from typing import Any

import faulty_environments as faulty
import numpy as np
import pytest
from gymnasium import spaces

from es_rl.observations import flatten_observation
from es_rl.policies import LinearPolicy, MlpPolicy

SPACES = [
    spaces.Box(-1, 1, (2, 3)),
    spaces.Box(0, 255, (4,), np.uint8),
    spaces.Box(-1, 1, (), np.float64),
    spaces.Discrete(5, start=-2),
    spaces.MultiBinary([2, 3]),
    spaces.MultiDiscrete([[3, 4], [2, 2]], start=[[1, -1], [0, 5]]),
    spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Box(-1, 1, (2,))}),
    spaces.Tuple((spaces.Discrete(2), spaces.Dict({"x": spaces.MultiBinary(2)}))),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_members_are_flattened_as_gymnasium_does(space: spaces.Space[Any]) -> None:
    space.seed(0)
    for _ in range(20):
        sample = space.sample()
        flat = flatten_observation(space, sample)
        assert flat.dtype == np.float64
        np.testing.assert_array_equal(flat, spaces.flatten(space, sample))


@pytest.mark.parametrize("kind", faulty.WRONG)
def test_what_is_no_observation_is_refused_by_name(kind: str) -> None:
    space, good, wrong, reason = faulty.WRONG[kind]
    flatten_observation(space, good)
    with pytest.raises(ValueError, match="observation") as caught:
        flatten_observation(space, wrong)
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)
    policy = LinearPolicy(space, spaces.Box(-1.0, 1.0, (2,)))
    with pytest.raises(ValueError, match="observation"):
        policy.act(policy.theta, wrong)


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), np.array(3), np.array(3, np.uint8)])
def test_whole_numbers_of_any_width_are_choices(value: Any) -> None:
    flat = flatten_observation(spaces.Discrete(4), value)
    np.testing.assert_array_equal(flat, [0, 0, 0, 1])


def test_bounds_of_a_box_are_advice() -> None:
    box = spaces.Box(-1, 1, (2,))
    np.testing.assert_array_equal(flatten_observation(box, [3, 1e40]), [3.0, 1e40])


@pytest.mark.parametrize("size", [0, 1, 4, 6])
def test_the_kernels_are_never_given_another_number_of_inputs(size: int) -> None:
    policy = MlpPolicy(spaces.Box(-1, 1, (5,)), spaces.Box(-1, 1, (2,)), hidden=(3,))
    with pytest.raises(ValueError, match=rf"flattened observation of shape \({size},\)"):
        policy.act_on(policy.theta, np.zeros(size))
