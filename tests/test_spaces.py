"""Spaces as plain data."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gymnasium import spaces

from es_rl.spaces import space_from_dict, space_to_dict

_SPACES = [
    spaces.Box(-np.inf, np.inf, (3,), np.float64),
    spaces.Box(-1, 1, (2, 2)),
    spaces.Box(0, 255, (4, 4, 3), np.uint8),
    spaces.Box(np.array([-1.0, -np.inf]), np.array([0.1, np.inf]), dtype=np.float64),
    spaces.Box(np.float32([[0.1], [0.3]]), np.float32([[0.2], [0.7]])),
    spaces.Box(0.1, 0.7, (), np.float32),
    spaces.Box(-(2**62), 2**62, (2,), np.int64),
    spaces.Discrete(5),
    spaces.Discrete(5, start=-2),
    spaces.MultiBinary(4),
    spaces.MultiBinary([2, 3]),
    spaces.MultiDiscrete([3, 4]),
    spaces.MultiDiscrete([3, 4], start=[1, -1]),
    spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Box(-1, 1, (2,))}),
    spaces.Tuple((spaces.Discrete(2), spaces.Dict({"x": spaces.MultiBinary(2)}))),
]


@pytest.mark.parametrize("space", _SPACES, ids=str)
def test_space_comes_back_through_json(space):
    rebuilt = space_from_dict(json.loads(json.dumps(space_to_dict(space))))
    assert rebuilt == space
    assert rebuilt.dtype == space.dtype
    sample = space.sample()
    np.testing.assert_array_equal(spaces.flatten(rebuilt, sample), spaces.flatten(space, sample))


def test_spaces_that_policies_do_not_take_are_refused():
    with pytest.raises(ValueError, match=r"space Text\(.*cannot be stored with a policy"):
        space_to_dict(spaces.Text(5))
    with pytest.raises(ValueError, match="cannot be stored"):
        space_to_dict(spaces.Dict({"a": spaces.Graph(spaces.Discrete(2), None)}))


_BOX = {"type": "Box", "shape": [2], "dtype": "float32", "low": -1.0, "high": 1.0}


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "Box",
        {},
        {"type": "Cube"},
        {"type": "Box"},
        {**_BOX, "shape": None},
        {**_BOX, "shape": [-1]},
        {**_BOX, "shape": [2.0**70]},
        {**_BOX, "shape": ["a"]},
        {**_BOX, "shape": [float("nan")]},
        {**_BOX, "dtype": "O"},
        {**_BOX, "dtype": "spam"},
        {**_BOX, "dtype": "float32,int8"},
        {**_BOX, "dtype": "U300000000"},
        {**_BOX, "dtype": "S1500000000", "low": "a"},
        {**_BOX, "dtype": "V1500000000"},
        {**_BOX, "dtype": "(150000000,)f8"},
        {**_BOX, "dtype": ["float32", [150000000]]},
        {**_BOX, "dtype": "M8[s]"},
        {**_BOX, "dtype": "complex128"},
        {**_BOX, "low": "a"},
        {**_BOX, "low": None},
        {**_BOX, "low": 1e300},
        {**_BOX, "low": float("nan")},
        {**_BOX, "low": [1.0, 2.0, 3.0]},
        {**_BOX, "low": 2.0},
        {"type": "Discrete", "n": 0, "start": 0},
        {"type": "Discrete", "n": -5, "start": 0},
        {"type": "Discrete", "n": "x", "start": 0},
        {"type": "Discrete", "n": float("inf"), "start": 0},
        {"type": "Discrete", "n": 3},
        {"type": "MultiBinary", "n": "x"},
        {"type": "MultiDiscrete", "nvec": [0, 1], "start": [0, 0]},
        {"type": "MultiDiscrete", "nvec": {"a": 1}, "start": [0, 0]},
        {"type": "Dict", "spaces": [_BOX]},
        {"type": "Dict", "spaces": None},
        {"type": "Tuple", "spaces": {"a": _BOX}},
        {"type": "Tuple", "spaces": [None]},
    ],
    ids=lambda data: str(data)[:60],
)
def test_what_describes_no_space_is_refused(data):
    with pytest.raises(ValueError, match="not the description of a space"):
        space_from_dict(data)


@pytest.mark.parametrize(
    "data",
    [
        {**_BOX, "shape": [10**6, 10**6]},
        {**_BOX, "shape": [2**32, 2**32]},
        {"type": "Discrete", "n": 10**12, "start": 0},
        {"type": "MultiBinary", "n": [10**5, 10**5]},
        {"type": "MultiDiscrete", "nvec": [10**9], "start": [0]},
        {"type": "Tuple", "spaces": 100 * [{**_BOX, "shape": [10**6]}]},
        {"type": "Dict", "spaces": {"a": _BOX, "b": {**_BOX, "shape": [10**9]}}},
        {**_BOX, "shape": [2**24]},
        {**_BOX, "shape": [0, 2**40]},
    ],
    ids=lambda data: str(data)[:60],
)
def test_a_short_description_cannot_fill_the_memory(data):
    with pytest.raises(ValueError, match="more than 4194304 elements"):
        space_from_dict(data)


@pytest.mark.parametrize(
    "negative",
    [
        {"type": "Discrete", "n": -(2**40), "start": 0},
        {"type": "MultiDiscrete", "nvec": [-(2**40)], "start": [0]},
        {**_BOX, "shape": [-1, 2**20]},
        {"type": "MultiBinary", "n": [-1, 2**20]},
    ],
    ids=lambda data: str(data)[:60],
)
def test_a_negative_size_makes_no_room_for_others(negative):
    spaces_ = [{**_BOX, "shape": [2**27]}, negative]
    for order in (spaces_, spaces_[::-1]):
        with pytest.raises(ValueError, match=r"a length of -|more than 4194304 elements"):
            space_from_dict({"type": "Tuple", "spaces": order})


def test_a_file_says_how_large_its_spaces_may_be():
    data = {"type": "Tuple", "spaces": [_BOX, {"type": "Discrete", "n": 3, "start": 0}]}
    assert spaces.flatdim(space_from_dict(data, 5)) == 5
    with pytest.raises(ValueError, match="more than 4 elements"):
        space_from_dict(data, 4)


@pytest.mark.parametrize("depth", [33, 400, 5000])
def test_a_description_nested_without_end_is_refused(depth):
    data = _BOX
    for _ in range(depth):
        data = {"type": "Tuple", "spaces": [data]}
    with pytest.raises(ValueError, match="nested more than 32 deep"):
        space_from_dict(data)


def test_what_can_be_described_can_be_rebuilt():
    space = spaces.Discrete(2)
    for _ in range(32):
        space = spaces.Tuple([space])
    assert space_from_dict(space_to_dict(space)) == space
    with pytest.raises(ValueError, match="nested more than 32 deep"):
        space_to_dict(spaces.Tuple([space]))
