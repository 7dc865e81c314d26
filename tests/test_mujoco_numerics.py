"""NumPy's arithmetic inside compiled code, and the cache keys of what is compiled from it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

from es_rl.envs.mujoco import inverted_pendulum, kernel, numerics
from es_rl.envs.mujoco.make import FAMILIES

FAMILY_MODULES = sorted({family for family, _, _ in FAMILIES.values()})


@pytest.mark.parametrize("length", [1, 2, 6, 7, 8, 9, 17, 84, 127, 128, 129, 250, 1001, 1808])
def test_sums_of_squares_are_numpys(length: int) -> None:
    rng = np.random.default_rng(length)
    for _ in range(20):
        values = rng.normal(size=length) * np.exp(rng.normal(size=length))
        assert numerics.sum_of_squares(values) == np.sum(np.square(values))
        clipped = np.sum(np.square(np.clip(values, -0.3, 0.7)))
        assert numerics.sum_of_clipped_squares(values, -0.3, 0.7) == clipped


def test_norms_and_weighted_means_are_numpys() -> None:
    rng = np.random.default_rng(0)
    arithmetic = numerics.probe()
    assert not arithmetic.unmatched
    for _ in range(500):
        vector, weights, points = rng.normal(size=3), rng.random(14), rng.normal(size=(14, 3))
        norm = np.sqrt(numerics.inner(vector, arithmetic.fused_inner))
        assert norm == np.linalg.norm(vector)
        means = np.einsum("b,bj->j", weights, points) / weights.sum()
        for axis in range(3):
            mean = numerics.weighted_mean(
                weights, points.ravel(), axis, weights.sum(), arithmetic.fused_weighted
            )
            assert mean == means[axis]


def test_scalars_are_squared_by_the_c_librarys_power() -> None:
    values = np.random.default_rng(0).normal(size=20_000)
    powers = np.array([value**2 for value in values])
    assert (powers != values * values).any(), "nothing to tell the two apart by"
    np.testing.assert_array_equal(
        [numerics.square_by_power(value, 2.0) for value in values], powers
    )


def test_clipping_keeps_nan_and_the_sign_of_zero() -> None:
    # a zero that meets a bound of the other sign is left out: versions of NumPy differ in it
    for value in (-0.0, 0.0, np.nan, -np.inf, 2.0):
        ours, theirs = numerics.clip(value, -1.0, 1.0), np.clip(np.array([value]), -1.0, 1.0)[0]
        np.testing.assert_array_equal(ours, theirs)
        assert np.signbit(ours) == np.signbit(theirs)


def test_fused_multiplication_rounds_once() -> None:
    n_different = 0
    for x, y in np.random.default_rng(0).normal(size=(200, 2)):
        vector = np.array([x, y])
        fused = float(Fraction(y) * Fraction(y) + Fraction(x * x))
        assert numerics.inner(vector, True) == fused
        n_different += numerics.inner(vector, False) != fused
    assert n_different > 0


def compiled_functions(function: Any, seen: set[Any]) -> Iterator[Any]:
    """Yield every Numba function that `function` is compiled with."""
    if function in seen:
        return
    seen.add(function)
    yield function
    scope = inspect.getclosurevars(function.py_func)
    used = [*scope.nonlocals.values(), *scope.globals.values()]
    for module in [value for value in used if isinstance(value, ModuleType)]:
        used += [getattr(module, name) for name in scope.unbound if hasattr(module, name)]
    for value in used:
        if isinstance(value, Dispatcher):
            yield from compiled_functions(value, seen)


@pytest.mark.parametrize("family", FAMILY_MODULES)
def test_every_inlined_source_file_is_in_the_cache_key(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(f"es_rl.envs.mujoco.{family}")
    digested: list[str] = []

    def remember(*family_files: str) -> int:
        digested.extend(kernel.source_files(*family_files))
        raise KeyboardInterrupt  # before anything is compiled

    monkeypatch.setattr(kernel, "sources_digest", remember)
    with pytest.raises(KeyboardInterrupt):
        module._compile.__wrapped__()
    functions = list(compiled_functions(module._run, set()))
    names = {function.__name__ for function in functions}
    assert {"forward", "tanh", "clip", "_advance", "run"} <= names
    sources = {inspect.getsourcefile(function.py_func) for function in functions}
    assert sources <= set(digested)


def test_the_digest_follows_the_contents_of_the_files(tmp_path: Path) -> None:
    path = tmp_path / "family.py"
    path.write_text("a = 1\n")
    first = kernel.sources_digest(str(path))
    assert kernel.sources_digest(str(path)) == first
    path.write_text("a = 2\n")
    assert kernel.sources_digest(str(path)) != first


def test_a_kernel_comes_from_the_cache_only_under_its_own_digest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    compile_kernel = inverted_pendulum._compile.__wrapped__
    assert compile_kernel().cache_hits == 0
    assert compile_kernel().cache_hits == 1
    digest = kernel.sources_digest(inverted_pendulum.__file__)
    monkeypatch.setattr(kernel, "sources_digest", lambda *files: digest ^ 1)
    assert compile_kernel().cache_hits == 0
