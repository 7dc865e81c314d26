"""Mini-batches and start parameters: functions of seed and counters, of the right distribution."""

from __future__ import annotations

import numpy as np
import pytest

from es_rl.envs.random_draws import (
    EVALUATION,
    TRAINING,
    batch_table,
    draw_batch,
    draw_initial,
    initial_theta,
)


def _batch(seed, stream, step, n, size):
    taken, indices = np.zeros(n + 3, np.uint8), np.empty(size, np.int64)
    draw_batch(np.uint64(seed), stream, step, n, taken, indices)
    assert not taken.any()
    return indices


@pytest.mark.parametrize(("n", "size"), [(1, 1), (7, 7), (40, 13), (50_000, 128)])
def test_a_batch_has_distinct_members_of_the_data(n, size):
    for step in range(5):
        batch = _batch(3, TRAINING, step, n, size)
        assert len(set(batch.tolist())) == size
        assert batch.min() >= 0
        assert batch.max() < n


def test_every_counter_word_matters_and_nothing_else():
    first = _batch(3, TRAINING, 5, 1000, 20)
    np.testing.assert_array_equal(first, _batch(3, TRAINING, 5, 1000, 20))
    for other in (
        _batch(4, TRAINING, 5, 1000, 20),
        _batch(3 + 2**32, TRAINING, 5, 1000, 20),
        _batch(3, EVALUATION, 5, 1000, 20),
        _batch(3, TRAINING, 6, 1000, 20),
    ):
        assert not np.array_equal(np.sort(first), np.sort(other))


def test_every_member_and_every_couple_is_equally_likely():
    # 20,000 batches of 3 out of 6: a member's count is binomial(20,000, ½), a couple's (⅕)
    n_steps = 20_000
    table = batch_table(1, TRAINING, n_steps, 6, 3)
    hits = np.zeros((n_steps, 6))
    hits[np.arange(n_steps)[:, None], table] = 1.0
    couples = hits.T @ hits
    for count, share in [(np.diag(couples), 0.5), (couples[np.triu_indices(6, 1)], 0.2)]:
        deviation = np.sqrt(n_steps * share * (1 - share))
        assert (np.abs(count - n_steps * share) < 4 * deviation).all()


def test_the_table_holds_the_batches_step_by_step():
    table = batch_table(9, EVALUATION, 4, 30, 5)
    for step in range(4):
        np.testing.assert_array_equal(table[step], _batch(9, EVALUATION, step, 30, 5))


SIZES = np.array([400, 60, 7], np.int64)


def _layers(params):
    return params[:24_000], params[24_000:24_060], params[24_060:24_480], params[24_480:]


def test_weights_are_cut_normals_scaled_by_the_inputs_and_biases_zero():
    # a normal cut off at two deviations has the standard deviation 0.8796
    params = np.full((1, 24_487), np.nan, np.float32)
    draw_initial(np.array([0]), np.array([5], np.uint64), SIZES, params)
    first, first_bias, second, second_bias = _layers(params[0])
    assert not first_bias.any()
    assert not second_bias.any()
    for weights, n_in in ((first, 400), (second, 60)):
        scaled = weights * np.sqrt(n_in)
        assert np.abs(scaled).max() < 2.0
        error = 0.8796 / np.sqrt(2 * weights.size)
        assert abs(scaled.std() - 0.8796) < 4 * error
        assert abs(scaled.mean()) < 4 * 0.8796 / np.sqrt(weights.size)
    # the second layer goes on in the stream instead of beginning it again
    assert not np.allclose(second * np.sqrt(60), first[: second.size] * np.sqrt(400))


def test_rows_of_one_seed_start_alike_and_others_do_not():
    params = np.zeros((5, 24_487), np.float32)
    rows, seeds = np.array([4, 1, 0, 2]), np.array([8, 8, 9, 8], np.uint64)
    draw_initial(rows, seeds, SIZES, params)
    np.testing.assert_array_equal(params[4], params[1])
    np.testing.assert_array_equal(params[4], params[2])
    assert not np.array_equal(params[4], params[0])
    assert not params[3].any()


def test_theta_is_drawn_likewise_from_a_stream_of_its_own():
    theta = initial_theta(5, SIZES)
    assert theta.dtype == np.float64
    params = np.zeros((1, 24_487), np.float32)
    draw_initial(np.array([0]), np.array([5], np.uint64), SIZES, params)
    assert (theta[:24_000].astype(np.float32) != params[0, :24_000]).mean() > 0.999
    assert np.abs(theta[:24_000]).max() < 2 / np.sqrt(400)
    np.testing.assert_array_equal(theta, initial_theta(5, SIZES))
