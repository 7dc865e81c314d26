"""The compiled LSTM against the same network in PyTorch."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from es_rl.envs.char_lstm import CharLstmTask
from es_rl.envs.sonnets import SONNETS

ROW = np.array([0])


def _losses(task, theta, n_steps, seed=0):
    task.allocate(1)
    task.reset(ROW, np.array([seed], np.uint64))
    return [task.unroll(ROW, theta[None], np.array([1])).loss_sum[0] for _ in range(n_steps)]


def _torch_losses(task, theta, text):
    """The task's documented layout of θ, put into PyTorch's own LSTM cell."""
    n, v = task.units, len(task.alphabet)
    sizes = [v * n, 4 * n * n, 4 * n * n, 4 * n, v * n, v]
    assert task.num_params == sum(sizes)
    embedding, by_input, by_hidden, bias, decoder, decoder_bias = torch.tensor(theta).split(sizes)
    cell = torch.nn.LSTMCell(n, n, dtype=torch.float64)
    # ours: forget, input, output, candidate; PyTorch's: input, forget, candidate, output
    order = torch.cat([torch.arange(k * n, (k + 1) * n) for k in (1, 0, 3, 2)])
    with torch.no_grad():
        cell.weight_ih.copy_(by_input.reshape(4 * n, n)[order])
        cell.weight_hh.copy_(by_hidden.reshape(4 * n, n)[order])
        cell.bias_ih.copy_(bias[order])
        cell.bias_hh.zero_()
        state, losses = (torch.zeros(1, n, dtype=torch.float64),) * 2, []
        codes = [task.alphabet.index(character) for character in text]
        for code, target in pairwise(codes):
            state = cell(embedding.reshape(v, n)[code][None], state)
            logits = state[0] @ decoder.reshape(v, n).T + decoder_bias
            losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor([target])).item())
    return losses


@pytest.mark.parametrize("units", [1, 3, 5])
def test_losses_are_those_of_pytorchs_lstm(units):
    task = CharLstmTask(units=units)
    theta = np.random.default_rng(0).normal(size=task.num_params)
    losses = _losses(task, theta, 60)
    np.testing.assert_allclose(losses, _torch_losses(task, theta, SONNETS[:61]), rtol=1e-11)


def test_reading_goes_on_at_the_beginning_with_the_state_kept():
    text = "abcab"
    task = CharLstmTask(text, units=2, horizon=10)
    theta = np.random.default_rng(1).normal(size=task.num_params)
    expected = _torch_losses(task, theta, text)
    losses = _losses(task, theta, 9)
    np.testing.assert_allclose(losses[:4], expected, rtol=1e-12)
    # step 5 reads the first character again, but with what was read before in the state
    assert losses[4] != losses[0]
    assert task.get_state()["step"][0] == 9


def test_without_a_fixed_start_the_seed_says_where_reading_begins():
    task = CharLstmTask(fixed_start=False, horizon=50)
    theta = np.random.default_rng(1).normal(size=task.num_params)
    first, again, other = (_losses(task, theta, 20, seed) for seed in (2**60, 2**60, 2**63))
    assert first == again
    assert first != other
    place = int(2**60 / 2**64 * (len(SONNETS) - 1))
    expected = _torch_losses(task, theta, SONNETS[place : place + 21])
    np.testing.assert_allclose(first, expected, rtol=1e-11)


def test_the_start_is_the_posters_distribution():
    task = CharLstmTask(units=50)
    theta, n, v = task.initial_theta(1), 50, len(task.alphabet)
    embedding, gates = theta[: v * n], theta[v * n : v * n + 8 * n * n]
    assert np.abs(embedding).max() <= 0.1
    assert embedding.std() == pytest.approx(0.1 / np.sqrt(3), rel=0.05)
    assert np.abs(gates).max() < 2 / np.sqrt(n)
    assert gates.std() == pytest.approx(0.8796 / np.sqrt(n), rel=0.05)
    assert not theta[-v:].any()
    assert np.array_equal(theta, task.initial_theta(1))
    assert not np.array_equal(theta, task.initial_theta(2))


def test_an_untrained_network_is_about_as_good_as_guessing():
    task = CharLstmTask()
    losses = _losses(task, task.initial_theta(), 200)
    assert np.mean(losses) == pytest.approx(np.log(len(task.alphabet)), rel=0.05)


def test_options_out_of_range_are_named():
    with pytest.raises(ValueError, match="text='aaa': must have two different characters"):
        CharLstmTask("aaa")
    with pytest.raises(ValueError, match="units=0: must be a positive integer"):
        CharLstmTask(units=0)
    for text in (b"abc", ["ab", "c"], 5):
        with pytest.raises(ValueError, match=r"^text=.*: must be a str, such as load_text"):
            CharLstmTask(text)
    with pytest.raises(ValueError, match="fixed_start=maybe: must be true or false"):
        CharLstmTask(fixed_start="maybe")
    with pytest.raises(ValueError, match=r"^text='a{299}\.\.\.: must have"):
        CharLstmTask("a" * 100_000)
