"""Learning-rate schedules and their text form."""

from __future__ import annotations

import math
import re

import pytest

from es_rl.schedules import OverSteps, constant, cosine, linear, parse_schedule, piecewise


@pytest.mark.parametrize(
    ("schedule", "table"),
    [
        (constant(0.3), {0: 0.3, 10**9: 0.3}),
        (
            piecewise(2.0, {1000: 0.1, 10: 0.5}),
            {0: 2.0, 9: 2.0, 10: 1.0, 999: 1.0, 1000: 0.2, 10**6: 0.2},
        ),
        (linear(2.0, 100), {0: 2.0, 25: 1.5, 50: 1.0, 99: 0.02, 100: 0.0, 101: 0.0}),
        (linear(2.0, 100, 0.5), {0: 2.0, 50: 1.5, 100: 1.0, 10**6: 1.0}),
        (linear(2.0, 10, 3.0), {0: 2.0, 5: 4.0, 10: 6.0}),
        (
            cosine(2.0, 100),
            {0: 2.0, 25: 1 + math.sqrt(0.5), 50: 1.0, 75: 1 - math.sqrt(0.5), 100: 0.0, 500: 0.0},
        ),
        (cosine(2.0, 100, 0.5), {0: 2.0, 50: 1.5, 100: 1.0, 500: 1.0}),
    ],
)
def test_schedule_gives_its_table(schedule, table):
    for update, rate in table.items():
        assert schedule(update) == pytest.approx(rate, rel=1e-14, abs=1e-15)


@pytest.mark.parametrize(
    ("text", "twin"),
    [
        ("constant", constant(0.3)),
        ("piecewise:1000=0.1", piecewise(0.3, {1000: 0.1})),
        ("piecewise:1000=0.1,2000=0.01", piecewise(0.3, {1000: 0.1, 2000: 0.01})),
        ("linear:500", linear(0.3, 500)),
        ("linear:500:0.1", linear(0.3, 500, 0.1)),
        ("cosine:500", cosine(0.3, 500)),
        ("cosine:500:1e-2", cosine(0.3, 500, 0.01)),
    ],
)
def test_text_means_its_schedule(text, twin):
    schedule = parse_schedule(text, 0.3)
    for update in (0, 1, 250, 499, 500, 999, 1000, 1999, 2000, 5000):
        assert schedule(update) == twin(update)


@pytest.mark.parametrize("text", ["linear:500:0.1", "cosine:500", "piecewise:500=0.5,1000=0.25"])
def test_steps_in_the_place_of_updates_are_the_same_schedule_over_steps(text):
    in_steps = parse_schedule(re.sub("(500|1000)(?=[:=]|$)", r"\1steps", text), 0.3)
    in_updates = parse_schedule(text, 0.3)
    assert isinstance(in_steps, OverSteps)
    assert not isinstance(in_updates, OverSteps)
    for count in (0, 1, 250, 499, 500, 999, 1000, 5000):
        assert in_steps(count) == in_updates(count)


@pytest.mark.parametrize(
    "text",
    [
        "", "const", "constant:1", "linear", "linear:", "linear:0", "linear:-5", "linear:1.5",
        "linear:ten", "linear:10:", "linear:10:-1", "linear:10:nan", "linear:10:inf",
        "linear:10:0.1:2", "cosine", "cosine:0", "cosine:10:x", "piecewise", "piecewise:",
        "piecewise:10", "piecewise:10=", "piecewise:=0.1", "piecewise:0=0.1", "piecewise:10=-1",
        "piecewise:10=0.1,", "piecewise:10=0.1=2", "piecewise:10=0.1,10=0.2", "piecewise:x=1",
        "Linear:10", " constant", "linear:steps", "linear:0steps", "linear:10 step",
        "linear:1e6steps", "linear:10stepssteps", "piecewise:10=0.5,20steps=0.1",
        "piecewise:10steps=0.1,10steps=0.2",
        "piecewise:10=0.5,10steps=0.5",
    ],
)  # fmt: skip
def test_text_that_means_nothing_is_refused_with_what_it_says(text):
    with pytest.raises(ValueError, match=r"^lr_schedule=") as caught:
        parse_schedule(text, 0.1)
    assert repr(text) in str(caught.value)
    assert "piecewise:WHEN=FACTOR" in str(caught.value)


@pytest.mark.parametrize("rate", [0.0, -0.1, math.nan, math.inf])
@pytest.mark.parametrize("text", ["constant", "linear:10"])
def test_a_learning_rate_that_is_not_positive_is_refused(text, rate):
    with pytest.raises(ValueError, match=f"^learning_rate={rate}: must be a positive number"):
        parse_schedule(text, rate)
