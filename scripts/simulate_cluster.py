"""Predict the time of one update on a Ray cluster of 1 to 10,000 workers.

Measures on this machine what a window costs, what a call of an actor costs, how large messages
are and how much windows differ in time; then plays one update after another, event by event, for
each number of workers: calls leave the driver one by one, θ and the replies cross the network,
replies are taken in one by one, and the gradient is summed. The predictions are made of processor
time, which other work on this machine does not lengthen. With --check the same model, made of
times by the clock, is held against what 1 and 2 workers really take here.

    python scripts/simulate_cluster.py --check --json prediction.json
"""

from __future__ import annotations

import argparse
import functools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cloudpickle
import numpy as np
from results import table, write_json

from es_rl.block_sums import node_starts, sum_nodes
from es_rl.distributed import EstimatorSpec, RayEstimator, RayPool
from es_rl.distributed.holder import Message, Reply
from es_rl.distributed.shares import join_windows, split_pairs
from es_rl.envs import make_task
from es_rl.envs.making import make_env
from es_rl.policies import LinearPolicy
from es_rl.shaping import Part
from es_rl.window import Window

Clock = Callable[[], float]

WORKERS = (1, 2, 10, 30, 100, 300, 1000, 3000, 10000)


@dataclass(frozen=True)
class Costs:
    """What the model is made of; seconds and bytes.

    Attributes:
        window: of a worker, whatever it holds.
        pair: of a worker, for each of its pairs.
        spread: standard deviation of the logarithm of a window's time.
        put: of the driver, for making θ available.
        send: of the driver, for each call.
        receive: of the driver, for each reply.
        latency: from a call to its execution and from its end to the driver, together.
        bandwidth: bytes a second of every machine's network.
        overhead: bytes of a reply beside its arrays.
        stall_probability: that a worker stalls in a window.
        stall_seconds: how long it then takes more.
    """

    window: float
    pair: float
    spread: float
    put: float
    send: float
    receive: float
    latency: float
    bandwidth: float = math.inf
    overhead: int = 1000
    stall_probability: float = 0.0
    stall_seconds: float = 0.0


@dataclass(frozen=True)
class Prediction:
    """One update on average, in seconds, and the parts it is made of one after another."""

    n_workers: int
    update: float
    compute: float
    waiting: float
    join: float


def reply_bytes(n_pairs: int, first_block: int, n_blocks: int, d: int, overhead: int) -> int:
    """Size of one worker's reply: a number and two losses a pair, and the nodes."""
    return overhead + 24 * n_pairs + 8 * d * len(node_starts(first_block, n_blocks))


def predict(
    costs: Costs, n_pairs: int, d: int, n_workers: int, join: float, threads: int = 1,
    n_updates: int = 50, seed: int = 0,
) -> Prediction:  # fmt: skip
    """Play `n_updates` updates and return their mean.

    Args:
        costs: see `Costs`.
        n_pairs: N.
        d: parameters.
        n_workers: P.
        join: seconds that the driver takes to join and sum the replies.
        threads: of each worker; the pairs of a worker divide among them.
        n_updates: to play.
        seed: of the random windows.
    """
    rng = np.random.default_rng(seed)
    shares = split_pairs(n_pairs, n_workers)
    held = np.array([share.n_pairs for share in shares])
    sizes = np.array([
        reply_bytes(s.n_pairs, s.first_pair // 8, s.n_blocks, d, costs.overhead) for s in shares
    ])  # fmt: skip
    service = costs.receive + sizes / costs.bandwidth
    sent = costs.put + costs.send * np.arange(1, n_workers + 1)
    there = sent + costs.latency / 2 + 8 * d / costs.bandwidth
    mean = costs.window + costs.pair * held / threads
    updates, computes = [], []
    for _ in range(n_updates):
        # of mean 1 whatever the spread
        factor = np.exp(costs.spread * rng.normal(size=n_workers) - costs.spread**2 / 2)
        compute = mean * factor
        compute += costs.stall_seconds * (rng.random(n_workers) < costs.stall_probability)
        arrival = there + compute + costs.latency / 2
        order = np.argsort(arrival)
        done = sent[-1]
        for worker in order:
            done = max(done, arrival[worker]) + service[worker]
        updates.append(done + join)
        computes.append(float(compute.max()))
    update, compute_mean = statistics.fmean(updates), statistics.fmean(computes)
    return Prediction(n_workers, update, compute_mean, update - join - compute_mean, join)


def median_seconds(call: Any, repetitions: int, clock: Clock) -> tuple[float, float]:
    """Median time of a call, and the standard deviation of its logarithm by the quartiles."""
    times = []
    for _ in range(repetitions):
        begin = clock()
        call()
        times.append(clock() - begin)
    quarters = np.quantile(np.log(times), (0.25, 0.75))
    return statistics.median(times), float(np.diff(quarters)[0]) / 1.349


def measure_windows(
    spec: EstimatorSpec, n_pairs: int, repetitions: int, clock: Clock
) -> tuple[float, float, float]:
    """Seconds of a window whatever it holds, seconds a pair, and spread."""
    points = []
    for n in (n_pairs // 4, n_pairs):
        alone = replace(spec, options={**spec.options, "n_pairs": n}).build()
        theta = np.zeros(alone.task.num_params)
        alone.start(theta)

        def window(alone: Any = alone, theta: Any = theta) -> None:
            alone.unroll_window(theta)
            alone.gradient_nodes()

        window()
        points.append((n, *median_seconds(window, repetitions, clock)))
        alone.task.close()  # type: ignore[attr-defined]
    (few, short, _), (many, long, spread) = points
    pair = (long - short) / (many - few)
    return max(0.0, short - pair * few), pair, spread


def measure_calls(pool: RayPool, repetitions: int, clock: Clock) -> dict[str, float]:
    """What the driver pays for a call, and how long one takes that does nothing."""
    by_clock = time.perf_counter
    pool.start(0)
    pool.submit(0, "introduce")
    pool.wait([0], 600)

    def round_trip() -> None:
        pool.submit(0, "introduce")
        pool.wait([0], 600)

    whole, _ = median_seconds(round_trip, repetitions, by_clock)
    send, receive = [], []
    for _ in range(repetitions):
        begin = clock()
        pool.submit(0, "introduce")
        send.append(clock() - begin)
        time.sleep(5 * whole)
        begin = clock()
        pool.wait([0], 600)
        receive.append(clock() - begin)
    cost = {"send": statistics.median(send), "receive": statistics.median(receive)}
    cost["latency"] = max(0.0, whole - cost["send"] - cost["receive"])
    message = Message(False, np.zeros(1000))
    cost["put"], _ = median_seconds(lambda: pool.share(message), repetitions, clock)
    return cost


def measure_join(n_pairs: int, d: int, n_workers: int, clock: Clock = time.process_time) -> float:
    """Seconds that the driver takes to join and sum made-up replies of that many workers."""
    shares = split_pairs(n_pairs, n_workers)
    windows = [
        Window([Part(np.arange(s.n_pairs), np.zeros(2 * s.n_pairs))], s.n_pairs, 1, s.n_pairs, 0)
        for s in shares
    ]
    runs = [
        (s.n_blocks, np.zeros((len(node_starts(s.first_pair // 8, s.n_blocks)), d))) for s in shares
    ]

    def join() -> None:
        join_windows(shares, windows).estimate(sum_nodes(runs, 1.0))

    return median_seconds(join, 3, clock)[0]


def measure_overhead(d: int, n_pairs: int) -> int:
    """Bytes of a reply beside its arrays."""
    window = Window([Part(np.arange(n_pairs), np.zeros(2 * n_pairs))], 1, 1, 1, 1)
    reply = Reply(window, np.zeros((1, d)), None, 1.0)
    return len(cloudpickle.dumps(reply)) - 24 * n_pairs - 8 * d


def check(spec: EstimatorSpec, costs: Costs, d: int, repetitions: int) -> list[dict[str, Any]]:
    """Hold the model against what 1 and 2 workers really take here.

    The windows' own times are those that the workers report of the very updates that are timed,
    so that what else runs on the machine is in both; costs of calls are those measured before.
    """
    rows = []
    n_pairs = spec.options["n_pairs"]
    for n_workers in (1, 2):
        join = measure_join(n_pairs, d, n_workers, time.perf_counter)
        real, predicted = [], []
        with RayEstimator(
            spec.algorithm, spec.make_task, n_workers=n_workers, **spec.options
        ) as spread:
            theta = np.zeros(d)
            spread.reset(theta)
            spread.estimate(theta)
            for _ in range(repetitions):
                begin = time.perf_counter()
                spread.estimate(theta)
                real.append(time.perf_counter() - begin)
                known = replace(costs, window=float(spread.seconds.max()), pair=0.0, spread=0.0)
                predicted.append(predict(known, n_pairs, d, n_workers, join, n_updates=1).update)
        ratios = np.divide(predicted, real)
        rows.append(
            {
                "workers": n_workers,
                "predicted": statistics.median(predicted),
                "real": statistics.median(real),
                "ratio": float(np.median(ratios)),
                "ratios": [float(ratios.min()), float(ratios.max())],
            }
        )
    return rows


def main() -> None:
    """Measure, check and predict."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--env", default="HalfCheetah-v4")
    parser.add_argument("--unroll-length", type=int, default=50)
    parser.add_argument("--n-pairs", type=int, default=80_000, help="N of the cluster's run")
    parser.add_argument("--check-pairs", type=int, default=256, help="N of what is run here")
    parser.add_argument("--check", action="store_true", help="run 1 and 2 workers here")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--latency-us", type=float, default=100.0, help="the network's, one way")
    parser.add_argument("--bandwidth-gbit", type=float, default=10.0)
    parser.add_argument("--stall-probability", type=float, default=0.001)
    parser.add_argument("--stall-seconds", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=64, help="of each worker, second table")
    parser.add_argument("--json")
    options = parser.parse_args()

    checked: list[dict[str, Any]] = []
    env = make_env(options.env)
    policy = LinearPolicy(env.observation_space, env.action_space)
    env.close()
    d = policy.num_params
    spec = EstimatorSpec(
        "nres",
        functools.partial(make_task, options.env, policy, n_threads=1),
        {"n_pairs": options.check_pairs, "unroll_length": options.unroll_length, "sigma": 0.02},
    )
    pool = RayPool(n_workers=2)
    costs = {}
    try:
        for name, clock in (("clock", time.perf_counter), ("processor", time.process_time)):
            costs[name] = Costs(
                *measure_windows(spec, options.check_pairs, options.repetitions, clock),
                **measure_calls(pool, 5 * options.repetitions, clock),
                overhead=measure_overhead(d, options.check_pairs),
            )
            print(f"measured here, time by the {name}:", costs[name])
            if name == "clock" and options.check:
                # at once, while the machine is as busy as it was
                checked = check(spec, costs[name], d, options.repetitions)
    finally:
        pool.close()
    here = costs["processor"]
    for row in checked:
        low, high = row["ratios"]
        print(
            f"{row['workers']} worker(s): predicted {1e3 * row['predicted']:.1f} ms, really "
            f"{1e3 * row['real']:.1f} ms; ratio {row['ratio']:.2f} [{low:.2f} to {high:.2f}]"
        )
    there = replace(
        here,
        latency=here.latency + 2e-6 * options.latency_us,
        bandwidth=options.bandwidth_gbit * 1e9 / 8,
    )
    stalling = replace(
        there,
        stall_probability=options.stall_probability,
        stall_seconds=options.stall_seconds,
    )
    predictions: list[dict[str, Any]] = []
    for threads in (1, options.threads):
        print(f"\n{options.n_pairs:,} pairs, {threads} thread(s) a worker\n")
        first, rows = 0.0, []
        for n_workers in WORKERS:
            if n_workers > -(-options.n_pairs // 8):
                continue
            join = measure_join(options.n_pairs, d, n_workers)
            result = predict(there, options.n_pairs, d, n_workers, join, threads)
            stalled = predict(stalling, options.n_pairs, d, n_workers, join, threads)
            first = first or result.update
            speedup = first / result.update
            predictions.append({"threads": threads, **vars(result), "with_stalls": stalled.update})
            rows.append(
                {
                    "workers": f"{n_workers:,}",
                    "processors": f"{n_workers * threads:,}",
                    "s/update": f"{result.update:.3f}",
                    "speedup": f"{speedup:,.1f}",
                    "efficiency": f"{100 * speedup / n_workers:.0f}%",
                    "slowest window": f"{result.compute:.3f}",
                    "calls and replies": f"{result.waiting:.3f}",
                    "join": f"{result.join:.3f}",
                    "s/update with stalls": f"{stalled.update:.3f}",
                }
            )
        print(table(rows))
    if options.json:
        write_json(
            options.json,
            {
                "costs": {name: vars(cost) for name, cost in costs.items()},
                "check": checked,
                "options": vars(options),
                "predictions": predictions,
            },
        )


if __name__ == "__main__":
    main()
