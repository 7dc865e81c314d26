"""Pairs spread over workers: the same bits as in one process, whatever is lost on the way."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from pools import HerePool
from ray_tasks import BadSystem
from systems import EndingSystem, LastingSystem, LoopTask

from es_rl.assembly import assemble
from es_rl.block_sums import BLOCK_PAIRS
from es_rl.config_layers import continued, resolve
from es_rl.distributed.estimator import DistributedEstimator, WorkerLostError
from es_rl.distributed.holder import EstimatorSpec
from es_rl.distributed.shares import Share, split_pairs
from es_rl.distributed.states import cut_states, join_states
from es_rl.envs import make_env, make_task
from es_rl.estimators import ESTIMATORS
from es_rl.options import ConfigError, flag
from es_rl.policies import LinearPolicy
from es_rl.tasks import NonFiniteLossError

_THETA = np.array([0.6, -0.2, 0.5])
_N = 6 * BLOCK_PAIRS + 5


def _spec(name, system=EndingSystem, horizon=11, **options):
    options = {"n_pairs": _N, "sigma": 0.3, "seed": 5, **options}
    if not ESTIMATORS[name].whole_episodes:
        options = {"unroll_length": 4, "staggering": "iid", **options}
    if name == "gpes":
        options.setdefault("noise_period", 8)
    return EstimatorSpec(name, functools.partial(LoopTask, system, horizon), options)


def _trained(estimator, n=8, start=True):
    """The estimates of a few windows; θ follows them, as it does in training."""
    theta = _THETA.copy()
    results = [estimator.reset(theta)] if start else []
    for _ in range(n):
        results.append(estimator.estimate(theta))
        theta = theta - 0.05 * results[-1].gradient
    return results


def _assert_same(mine, others):
    for one, other in zip(mine, others, strict=True):
        np.testing.assert_array_equal(one.gradient, other.gradient)
        assert one[1:] == other[1:]
    assert any(one.gradient.any() for one in mine)


@pytest.mark.parametrize("system", [EndingSystem, LastingSystem])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_any_number_of_workers_gives_the_bits_of_one_process(name, system):
    spec = _spec(name, system)
    truth = _trained(spec.build())
    for n_workers in (1, 2, 7):
        with DistributedEstimator(spec, HerePool(), n_workers=n_workers) as spread:
            _assert_same(truth, _trained(spread))


@pytest.mark.parametrize("options", [
    {"shaping": "std"}, {"shaping": "ranks", "top_pairs": 20}, {"shaping": "sign"},
])  # fmt: skip
@pytest.mark.parametrize("name", ESTIMATORS)
def test_weights_that_depend_on_all_pairs_are_those_of_one_process(name, options):
    spec = _spec(name, **options)
    with DistributedEstimator(spec, HerePool(), n_workers=3) as spread:
        _assert_same(_trained(spec.build()), _trained(spread))


@pytest.mark.parametrize("fault", ["before", "after", "hangs"])
@pytest.mark.parametrize(("name", "options"), [
    ("nres", {}), ("pes", {"shaping": "std"}), ("gpes", {}), ("tes", {"shaping": "std"}),
    ("nres", {"refresh_drift": 1e-3}), ("fulles", {}),
])  # fmt: skip
def test_a_lost_worker_is_replaced_with_the_same_result(name, options, fault):
    # every call of worker 1 in turn is the one that is lost: the start, windows before and after a
    # snapshot, the second round for weights, and the replacement's own first calls
    spec = _spec(name, n_pairs=2 * BLOCK_PAIRS + 3, **options)
    truth = _trained(spec.build(), n=4)
    n_calls = 11 if "shaping" in options else 7
    for number in (3, 5) if fault == "hangs" else range(n_calls):
        # a new worker has very long to get ready: what hangs is the call after that
        again = number + (3 if fault == "hangs" else 1)
        pool = HerePool({(1, number): fault, (1, again): fault})
        lines = []
        with DistributedEstimator(
            spec, pool, n_workers=3, snapshot_windows=2, on_replacement=lines.append,
            worker_timeout=0.05 if fault == "hangs" else None,
        ) as spread:  # fmt: skip
            _assert_same(truth, _trained(spread, n=4))
            assert spread.replacements == len(lines) == 2
        assert "pairs 8 to 15" in lines[0]
        assert ("no answer within" if fault == "hangs" else "it was told to") in lines[0]


@pytest.mark.parametrize("name", ["pes", "tes", "fulles"])
def test_statistics_of_observations_are_those_of_one_process_through_losses_and_states(name):
    env = make_env("Swimmer-v4")
    policy = LinearPolicy(env.observation_space, env.action_space, normalize_observations=True)
    options = {"n_pairs": 2 * BLOCK_PAIRS + 3, "sigma": 0.1, "horizon": 20, "seed": 2}
    if name != "fulles":
        options["unroll_length"] = 5
    spec = EstimatorSpec(
        name, functools.partial(make_task, "Swimmer-v4", policy, n_threads=1), options
    )
    alone = spec.build()
    theta = np.zeros(policy.num_params)

    def estimates(estimator, n):
        return [(estimator.estimate(theta + 0.1 * i), *estimator.normalizer) for i in range(n)]

    alone.reset(theta)
    truth = estimates(alone, 6)
    pool = HerePool({(1, 5): "before", (0, 7): "after"})
    with DistributedEstimator(spec, pool, n_workers=3, snapshot_windows=3) as spread:
        spread.reset(theta)
        mine = estimates(spread, 6)
        assert spread.replacements == 2
        state = spread.state_dict()
    for one, other in zip(truth, mine, strict=True):
        _assert_same(one[:1], other[:1])
        for array, its in zip(one[1:], other[1:], strict=True):
            np.testing.assert_array_equal(array, its)
    assert set(state) == set(alone.state_dict())
    for key, value in alone.state_dict().items():
        np.testing.assert_array_equal(state[key], value)
    with DistributedEstimator(spec, HerePool(), n_workers=2) as spread:
        spread.load_state_dict(state)
        _assert_same([alone.estimate(theta)], [spread.estimate(theta)])
        np.testing.assert_array_equal(alone.normalizer.mean, spread.normalizer.mean)


def test_what_is_repeated_after_a_loss_is_bounded_by_the_snapshots():
    pool = HerePool({(0, 60): "before"})
    with DistributedEstimator(
        _spec("pes", n_pairs=16), pool, n_workers=2, snapshot_windows=4
    ) as spread:
        _trained(spread, n=70)
        assert len(spread._messages) <= 2 * 4
        snapshots = [s.position for s in spread._snapshots]
        assert min(snapshots) >= 71 - 2 * 4
    # worker 0 was lost once, and took up a state rather than the start
    assert [m for w, m in pool.log if w == 0].count("restore") == 1


def test_a_worker_that_is_lost_again_and_again_ends_the_run_by_name():
    faults = {(1, number): "before" for number in range(3, 99)}
    with (
        DistributedEstimator(_spec("nres"), HerePool(faults), n_workers=2) as spread,
        pytest.raises(WorkerLostError, match=r"worker 1 \(pairs 24 to 52, \S+, process \d+\)"),
    ):
        _trained(spread)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_state_goes_between_one_process_and_any_number_of_workers(name):
    spec = _spec(name)
    truth = _trained(spec.build(), n=9)

    def estimator(n_workers):
        if n_workers == 0:
            return spec.build()
        return DistributedEstimator(spec, HerePool(), n_workers=n_workers)

    theta, stretches = _THETA.copy(), []
    state = None
    for n_workers in (0, 3, 2, 0):
        current = estimator(n_workers)
        if state is None:
            stretches.append(current.reset(theta))
        else:
            current.load_state_dict(state)
        for _ in range(2):
            stretches.append(current.estimate(theta))
            theta = theta - 0.05 * stretches[-1].gradient
        state = current.state_dict()
    _assert_same(truth[:9], stretches)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_state_of_all_shares_is_that_of_one_process(name):
    spec = _spec(name)
    alone = spec.build()
    _trained(alone)
    with DistributedEstimator(spec, HerePool(), n_workers=3) as spread:
        _trained(spread)
        joined, truth = spread.state_dict(), alone.state_dict()
    assert list(joined) == list(truth)
    for key, value in truth.items():
        np.testing.assert_array_equal(joined[key], value)
        assert joined[key].dtype == value.dtype
    # and a loss after the state was taken goes back to it
    pool = HerePool({(0, 7): "before"})
    with DistributedEstimator(spec, pool, n_workers=3) as spread:
        spread.load_state_dict(joined)
        mine = [spread.estimate(_THETA) for _ in range(9)]
        assert spread.replacements == 1
    _assert_same([alone.estimate(_THETA) for _ in range(9)], mine)


def test_ragged_states_of_environments_are_cut_and_joined():
    # 11 pairs, 2 and 3 rows a pair: what GymnasiumTask keeps, with some rows never started
    rng = np.random.default_rng(0)
    for rows_per_pair in (2, 3):
        lengths = rng.integers(0, 4, 11 * rows_per_pair)
        state = {
            "step": np.arange(11),
            "row_ended": rng.random(lengths.size) < 0.5,
            "seed": np.array(3),
            "task/seeds": rng.integers(0, 9, lengths.size),
            "task/digests": rng.integers(0, 9, (lengths.size, 16)).astype(np.uint8),
            "task/offsets": np.cumsum([0, *lengths]),
            "task/actions": rng.normal(size=(lengths.sum(), 2)).astype(np.float32),
        }
        shares = split_pairs(11, 2)
        cut = cut_states(shares, state, rows_per_pair)
        assert len(cut[0]["task/seeds"]) == 8 * rows_per_pair
        # row 21, the minus row of pair 10, is row 5 of the second share
        of_row = state["task/actions"][slice(*state["task/offsets"][21:23])]
        theirs = cut[1]["task/actions"][slice(*cut[1]["task/offsets"][5:7])]
        np.testing.assert_array_equal(theirs, of_row)
        joined = join_states(shares, cut, rows_per_pair)
        for key, value in state.items():
            np.testing.assert_array_equal(joined[key], value)
            assert joined[key].dtype == value.dtype


def test_a_state_without_rows_or_of_other_settings_is_refused():
    shares = split_pairs(16, 2)
    with pytest.raises(ValueError, match="first axis of every array is the rows"):
        cut_states(shares, {"task/table": np.zeros((5, 32))}, 2)
    with pytest.raises(ValueError, match="first axis of every array is the rows"):
        join_states(shares, [{"task/table": np.zeros(())}] * 2, 2)
    with pytest.raises(ValueError, match="disagree about 'seed'"):
        join_states(shares, [{"seed": np.array(i)} for i in range(2)], 2)
    with pytest.raises(ValueError, match="'step' has length 24, here it is 16"):
        cut_states(shares, {"step": np.zeros(24)}, 2)
    with DistributedEstimator(_spec("pes"), HerePool(), n_workers=2) as spread:
        state = _spec("pes", seed=6).build()
        state.reset(_THETA)
        with pytest.raises(ValueError, match="seed"):
            spread.load_state_dict(state.state_dict())


def test_an_error_names_the_pair_among_all_and_the_next_start_is_fresh():
    spec = _spec("nres", BadSystem)
    errors = []
    for estimator in (spec.build(), DistributedEstimator(spec, HerePool(), n_workers=7)):
        with pytest.raises(NonFiniteLossError) as caught:
            _trained(estimator, n=20)
        errors.append(caught.value)
    assert errors[0].args == errors[1].args
    assert errors[0].pair == errors[1].pair >= BLOCK_PAIRS
    with pytest.raises(RuntimeError, match="call reset"):
        estimator.estimate(_THETA)
    first = estimator.reset(_THETA)
    assert first.total_steps == spec.build().reset(_THETA).total_steps


class _WideSystem(LastingSystem):
    num_params = 500


@pytest.mark.parametrize("options", [{}, {"shaping": "std"}])
def test_messages_do_not_grow_with_pairs_times_parameters(options):
    for n_pairs in (_N, 8 * _N):
        pool = HerePool()
        spec = _spec("pes", _WideSystem, None, n_pairs=n_pairs, unroll_length=1, **options)
        with DistributedEstimator(spec, pool, n_workers=2, snapshot_windows=99) as spread:
            theta = np.resize(_THETA, 500)
            spread.reset(theta)
            spread.estimate(theta)
        n_blocks = split_pairs(n_pairs, 2)[1].n_blocks
        vectors = 8 * 500 * (2 * np.log2(n_blocks) + 2)
        # a pair's number and its two losses; and what any message has
        limit = vectors + 24 * BLOCK_PAIRS * n_blocks + 2000
        assert max(size for _, size in pool.received) < limit


def test_shares_are_whole_blocks_that_differ_by_one_at_most():
    for n_pairs, n_workers in ((1, 1), (8, 1), (53, 7), (300, 7), (10000, 100), (77, 10)):
        shares = split_pairs(n_pairs, n_workers)
        assert [s.first_pair for s in shares] == [0, *np.cumsum([s.n_pairs for s in shares])[:-1]]
        assert sum(s.n_pairs for s in shares) == n_pairs
        assert all(s.first_pair % BLOCK_PAIRS == 0 for s in shares)
        assert max(s.n_blocks for s in shares) - min(s.n_blocks for s in shares) <= 1
    with pytest.raises(ValueError, match="workers=3: 16 pairs are 2 blocks of 8"):
        split_pairs(16, 3)
    assert Share(8, 5).rows(13, 3).tolist() == [*range(16, 26), *range(34, 39)]


def test_as_many_workers_as_there_is_room_and_work_for():
    for room, expected in ((1, 1), (3, 3), (99, 7)):
        assert DistributedEstimator(_spec("tes"), HerePool(room=room)).n_workers == expected


@pytest.mark.parametrize(("option", "value"), [
    ("worker_timeout", 0), ("worker_timeout", float("nan")), ("snapshot_windows", 0),
    ("n_workers", 0),
])  # fmt: skip
def test_a_bad_option_is_named(option, value):
    with pytest.raises(ValueError, match=f"{option.removeprefix('n_')}={value}"):
        DistributedEstimator(_spec("tes"), HerePool(), **{option: value})
    with pytest.raises(ValueError, match="algorithm='cma': choose one of nres"):
        EstimatorSpec("cma", LoopTask)


def test_closing_ends_the_workers():
    pool = HerePool()
    with DistributedEstimator(_spec("tes"), pool, n_workers=2) as spread:
        spread.reset(_THETA)
    assert pool.closed
    with pytest.raises(RuntimeError, match="call reset"):
        spread.estimate(_THETA)


def test_workers_with_other_versions_are_refused(monkeypatch):
    monkeypatch.setattr(
        "es_rl.distributed.holder.versions", lambda: {"numpy": "1.0", "python": "2.7"}
    )
    monkeypatch.setattr(
        "es_rl.distributed.estimator.versions", lambda: {"numpy": "2.0", "python": "2.7"}
    )
    with (
        DistributedEstimator(_spec("tes"), HerePool(), n_workers=2) as spread,
        pytest.raises(RuntimeError, match=r"worker 0 \(.*\) has numpy 1\.0, and here is 2"),
    ):
        spread.reset(_THETA)


_GIVEN = {"env": "Swimmer-v4", "algo": "nres", "updates": 1}


@pytest.mark.parametrize("option", [{"workers": 3}, {"ray_address": "a:1"}, {"worker_timeout": 5}])
def test_an_option_of_workers_needs_the_engine_that_has_them(option):
    ((name, value),) = option.items()
    with pytest.raises(ConfigError, match=f"{flag(name)} {value}.*: applies to --engine ray alone"):
        resolve({**_GIVEN, **option})
    assert getattr(resolve({**_GIVEN, **option, "engine": "ray"}).config, name) == value


def test_a_run_may_change_between_ray_and_here_and_its_spreading_is_forgotten():
    config = resolve({**_GIVEN, "engine": "ray", "workers": 3, "threads": 2}).config
    assert continued(config, {"workers": 4}, "r").workers == 4
    here = continued(config, {"engine": "native"}, "r")
    assert (here.engine, here.workers, here.threads) == ("native", None, None)
    there = continued(here, {"engine": "ray", "workers": 5}, "r")
    assert (there.engine, there.workers) == ("ray", 5)
    with pytest.raises(ConfigError, match="--engine gymnasium: the run in r has native"):
        continued(here, {"engine": "gymnasium"}, "r")


def test_more_workers_than_blocks_are_refused_by_the_command_lines_name(monkeypatch):
    monkeypatch.setattr("es_rl.distributed.ray_estimator.RayPool", lambda *args, **kw: HerePool())
    config = resolve({**_GIVEN, "engine": "ray", "n_pairs": 20, "workers": 4}).config
    with pytest.raises(ConfigError, match="--workers 4: 20 pairs are 3 blocks of 8"):
        assemble(config)
