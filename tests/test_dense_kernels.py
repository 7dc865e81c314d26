"""The compiled network kernels against NumPy, and against PyTorch in double precision."""

from __future__ import annotations

import numba
import numpy as np
import pytest
import torch
from torch_network import network_logits

from es_rl.envs.dense_kernels import (
    accuracy,
    cross_entropy,
    exp32,
    matmul_add,
    network_backward,
    network_forward,
    parameter_count,
    tanh32,
)

RNG = np.random.default_rng(0)


@numba.njit
def _exp_all(values, out):
    for i in range(values.size):
        out[i] = exp32(values[i])


@numba.njit
def _tanh_all(values, out):
    for i in range(values.size):
        out[i] = tanh32(values[i])


def _apply(function, values):
    values = np.array(values, np.float32)
    out = np.full(values.size, 7.0, np.float32)
    function(values, out)
    return out


def test_exp32_and_tanh32_are_good_to_single_precision():
    values = RNG.uniform(-80, 80, 20_000).astype(np.float32)
    exact = np.exp(values.astype(np.float64))
    assert np.max(np.abs(_apply(_exp_all, values) / exact - 1)) < 2**-23
    values = RNG.uniform(-12, 12, 20_000).astype(np.float32)
    exact = np.tanh(values.astype(np.float64))
    assert np.max(np.abs(_apply(_tanh_all, values) - exact)) < 6 * 2**-24


def test_exp32_and_tanh32_bound_their_arguments_and_keep_nan():
    result = _apply(_exp_all, [np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0])
    assert np.isnan(result[0])
    assert (result[[1, 3]] > 1e38).all()
    assert np.isfinite(result[[1, 3]]).all()
    assert ((result[[2, 4]] > 0) & (result[[2, 4]] < 2e-38)).all()
    assert result[5] == 1.0
    result = _apply(_tanh_all, [np.nan, np.inf, -np.inf, 0.0])
    assert np.isnan(result[0])
    np.testing.assert_allclose(result[1:], [1.0, -1.0, 0.0], atol=1e-7)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 4, 16), (3, 5, 7), (7, 3, 33), (6, 9, 10)])
def test_matmul_adds_the_product_whatever_the_sizes(shape):
    m, k, n = shape
    a, b, c = (RNG.normal(size=s).astype(np.float32) for s in ((m, k), (k, n), (m, n)))
    expected = c + a.astype(np.float64) @ b
    for left in (a, np.asfortranarray(a), np.repeat(a, 2, axis=1)[:, ::2]):
        result = c.copy()
        matmul_add(left, b, result)
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)


def test_matmul_sums_each_element_in_order():
    # so that an element's bits do not depend on its neighbours or on the size of the tiles
    a, b = RNG.normal(size=(5, 11)).astype(np.float32), RNG.normal(size=(11, 6)).astype(np.float32)
    result = np.zeros((5, 6), np.float32)
    matmul_add(a, b, result)
    for i in range(5):
        for j in range(6):
            total = np.float32(0)
            for k in range(11):
                total = np.float32(total + np.float32(a[i, k] * b[k, j]))
            assert result[i, j] == total


def _network(sizes, batch):
    sizes = np.array(sizes, np.int64)
    params = (0.5 * RNG.normal(size=parameter_count(sizes))).astype(np.float32)
    inputs = RNG.normal(size=(batch, sizes[0])).astype(np.float32)
    labels = RNG.integers(0, sizes[-1], batch)
    return sizes, params, inputs, labels


@pytest.mark.parametrize("gelu", [True, False])
@pytest.mark.parametrize("sizes", [(6, 3), (5, 8, 4), (7, 9, 3, 10), (3, 2, 2, 2, 2)])
def test_loss_and_gradient_are_those_of_pytorch(sizes, gelu):
    sizes, params, inputs, labels = _network(sizes, batch=13)
    units = 13 * sizes[1:].sum()
    outputs, slopes = np.empty(units, np.float32), np.empty(units, np.float32)
    delta, scratch = (np.full(13 * sizes[1:].max(), np.nan, np.float32) for _ in range(2))
    transposed = np.empty((sizes[1:] * sizes[:-1]).max(), np.float32)
    gradient = np.full(params.size, np.nan, np.float32)
    logits = network_forward(params, sizes, gelu, inputs, outputs, slopes)
    exact_params = torch.tensor(params, dtype=torch.float64, requires_grad=True)
    exact_logits = network_logits(exact_params, sizes, gelu, inputs)
    np.testing.assert_allclose(logits, exact_logits.detach().numpy(), rtol=0, atol=2e-5)
    expected_accuracy = (logits.argmax(axis=1) == labels).mean()
    assert accuracy(logits, labels) == expected_accuracy
    loss = cross_entropy(logits, labels, delta)
    exact_loss = torch.nn.functional.cross_entropy(exact_logits, torch.tensor(labels))
    assert loss == pytest.approx(exact_loss.item(), rel=1e-5)
    network_backward(params, sizes, inputs, outputs, slopes, delta, scratch, transposed, gradient)
    exact_loss.backward()
    np.testing.assert_allclose(gradient, exact_params.grad.numpy(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_give_no_finite_loss(bad):
    logits = RNG.normal(size=(3, 4)).astype(np.float32)
    labels = np.array([0, 1, 2])
    assert np.isfinite(cross_entropy(logits, labels, np.empty(12, np.float32)))
    logits[1, 3] = bad
    assert not np.isfinite(cross_entropy(logits, labels, np.empty(12, np.float32)))
    assert np.isnan(accuracy(logits, labels))


def test_relu_networks_pass_nan_on():
    sizes, params, inputs, _ = _network((4, 5, 3), batch=2)
    inputs[1, 2] = np.nan
    outputs = np.empty(2 * 8, np.float32)
    logits = network_forward(params, sizes, False, inputs, outputs, np.empty_like(outputs))
    assert np.isfinite(logits[0]).all()
    assert np.isnan(logits[1]).all()


def test_far_logits_lose_precision_but_not_the_loss():
    logits = np.array([[0.0, 200.0], [200.0, 0.0]], np.float32)
    assert cross_entropy(logits, np.array([0, 0]), np.empty(4, np.float32)) == pytest.approx(100.0)
