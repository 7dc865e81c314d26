"""How cost grows: with threads, rows, parameters and window length, and from a cold start.

    python scripts/benchmark_scaling.py
    python scripts/benchmark_scaling.py --sections threads,rows --quick

All figures of a section come from one run whose variants take turns; medians over repetitions.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from results import table, write_json

from es_rl.block_sums import sum_blocks
from es_rl.envs import make_task
from es_rl.envs.making import make_env
from es_rl.estimators import NRES
from es_rl.perturbations import draw_noise, perturb, usable_cpus
from es_rl.policies import LinearPolicy

Rows = list[dict[str, Any]]


def medians(variants: dict[Any, Callable[[], float]], repetitions: int) -> dict[Any, list[float]]:
    """Call the variants in turn, `repetitions` times; each returns what it measured."""
    found: dict[Any, list[float]] = {key: [] for key in variants}
    for _ in range(repetitions):
        for key, measure in variants.items():
            found[key].append(measure())
    return found


def estimator(env_id: str, n_rows: int, window: int, n_threads: int | None) -> tuple[NRES, Any]:
    env = make_env(env_id)
    policy = LinearPolicy(env.observation_space, env.action_space)
    env.close()
    task = make_task(env_id, policy, n_threads=n_threads)
    made = NRES(task, n_pairs=n_rows // 2, unroll_length=window, sigma=0.1, staggering="lockstep")
    theta = np.zeros(policy.num_params)
    made.reset(theta)
    made.estimate(theta)
    return made, theta


def seconds_per_step(made: NRES, theta: Any, windows: int = 1) -> Callable[[], float]:
    def measure() -> float:
        begin = time.perf_counter()
        steps = sum(made.estimate(theta).total_steps for _ in range(windows))
        return (time.perf_counter() - begin) / steps

    return measure


def threads(quick: bool) -> Rows:
    """One thread against all of them, 60 rows."""
    rows: Rows = []
    for env_id in ("Swimmer-v4", "HalfCheetah-v4", "Humanoid-v4"):
        variants = {
            n: seconds_per_step(*estimator(env_id, 60, 20 if quick else 100, n), windows=2)
            for n in (1, usable_cpus())
        }
        found = medians(variants, 3 if quick else 9)
        one = statistics.median(found[1])
        for n, values in found.items():
            rows.append(
                {
                    "environment": env_id,
                    "threads": n,
                    "steps/s": f"{1 / statistics.median(values):,.0f}",
                    "ratio to one thread": f"{one / statistics.median(values):.2f}",
                }
            )
    return rows


def rows(quick: bool) -> Rows:
    """Rows from 20 to 100,000 on Swimmer-v4, W=5: cost per step and memory per row."""
    counts = (20, 60, 1_000) if quick else (20, 60, 1_000, 10_000, 100_000)
    out: Rows = []
    variants, memory = {}, {}
    for n in counts:
        before = _resident()
        made, theta = estimator("Swimmer-v4", n, 5, None)
        memory[n] = (_resident() - before) / n
        variants[n] = seconds_per_step(made, theta, windows=max(1, 24_000 // n))
    found = medians(variants, 3 if quick else 5)
    base = statistics.median(found[60])
    for n, values in found.items():
        out.append(
            {
                "rows": f"{n:,}",
                "µs per step": f"{1e6 * statistics.median(values):.2f}",
                "ratio to 60 rows": f"{statistics.median(values) / base:.2f}",
                "bytes per row": f"{memory[n]:,.0f}",
            }
        )
    return out


def million(quick: bool) -> Rows:
    """Peak memory of a process that holds and unrolls very many persistent Swimmer rows."""
    n = 20_000 if quick else 1_000_000
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from benchmark_scaling import *\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"made, theta = estimator('Swimmer-v4', {n}, 1, None)\n"
        "made.estimate(theta)\n"
        "print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    result = subprocess.run(
        [sys.executable, "-P", "-c", code, os.path.dirname(os.path.abspath(__file__))],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    before, peak = (int(v) for v in result.stdout.split())
    return [
        {
            "rows": f"{n:,}",
            "peak memory, whole process": f"{peak / 1e6:.2f} GB",
            "of it before the rows": f"{before / 1e6:.2f} GB",
        }
    ]


def kernels(quick: bool) -> Rows:
    """Noise, perturbation and gradient kernels against this machine's copy bandwidth."""
    sizes = (16, 10_000) if quick else (16, 1_000, 100_000, 1_000_000)
    return [_kernels(d, 3 if quick else 9) for d in sizes]


def _kernels(d: int, repetitions: int) -> dict[str, Any]:
    cpus = usable_cpus()
    n_pairs = min(500, 50_000_000 // d)
    pairs, zeros = np.arange(n_pairs), np.zeros(n_pairs, np.int64)
    epsilon, copy = np.zeros((n_pairs, d)), np.zeros((n_pairs, d))
    thetas, theta = np.zeros((2 * n_pairs, d)), np.zeros(d)
    every, differences = np.arange(2 * n_pairs), np.linspace(-1.0, 1.0, n_pairs)
    generators = [np.random.default_rng(i) for i in range(cpus)]
    shares = [(n_pairs * i // cpus, n_pairs * (i + 1) // cpus) for i in range(cpus)]
    pool = ThreadPoolExecutor(cpus)

    def parallel(function: Callable[[int, int, int], Any]) -> None:
        list(pool.map(lambda i: function(i, *shares[i]), range(cpus)))

    work: dict[str, tuple[Callable[[], Any], int]] = {
        "copy": (lambda: parallel(lambda _, a, b: np.copyto(copy[a:b], epsilon[a:b])), 16),
        "perturbation": (lambda: perturb(theta, epsilon, every, thetas), 24),
        "gradient": (lambda: sum_blocks(epsilon, pairs, differences, 1.0), 8),
        "noise": (lambda: draw_noise(1, pairs, zeros, zeros, 1.0, epsilon), 8),
        "NumPy standard_normal": (
            lambda: parallel(lambda i, a, b: generators[i].standard_normal(out=epsilon[a:b])),
            8,
        ),
    }
    numbers = n_pairs * d
    repeats = max(1, 1_000_000 // numbers)

    def timed(function: Callable[[], Any]) -> Callable[[], float]:
        def measure() -> float:
            begin = time.perf_counter()
            for _ in range(repeats):
                function()
            return (time.perf_counter() - begin) / repeats

        return measure

    found = medians({k: timed(f) for k, (f, _) in work.items()}, repetitions)
    pool.shutdown()
    seconds = {k: statistics.median(v[1:]) for k, v in found.items()}
    bandwidth = {k: work[k][1] * numbers / s / 1e9 for k, s in seconds.items()}
    return {
        "d": f"{d:,}",
        "pairs": n_pairs,
        "copy GB/s": f"{bandwidth['copy']:.1f}",
        "perturbation / copy": f"{bandwidth['perturbation'] / bandwidth['copy']:.2f}",
        "gradient / copy": f"{bandwidth['gradient'] / bandwidth['copy']:.2f}",
        "noise ns": f"{1e9 * seconds['noise'] / numbers:.2f}",
        "NumPy noise ns": f"{1e9 * seconds['NumPy standard_normal'] / numbers:.2f}",
    }


def windows(quick: bool) -> Rows:
    """Window lengths from 1 to 1000 on Swimmer-v4 and HalfCheetah-v4, 60 rows."""
    out: Rows = []
    lengths = (1, 10, 100) if quick else (1, 2, 5, 10, 20, 50, 100, 1000)
    for env_id in ("Swimmer-v4", "HalfCheetah-v4"):
        variants = {
            w: seconds_per_step(*estimator(env_id, 60, w, None), windows=max(1, 200 // w))
            for w in lengths
        }
        found = medians(variants, 3 if quick else 7)
        base = statistics.median(found[100])
        for w, values in found.items():
            out.append(
                {
                    "environment": env_id,
                    "W": w,
                    "µs per step": f"{1e6 * statistics.median(values):.2f}",
                    "ratio to W=100": f"{statistics.median(values) / base:.2f}",
                }
            )
    return out


_FIRST_UPDATE = """
import sys, time
import es_rl.trainer
update = es_rl.trainer.Trainer.update
def timed(self):
    record = update(self)
    if record.update == 1:
        print("first update at", time.time(), file=sys.stderr)
    return record
es_rl.trainer.Trainer.update = timed
from es_rl.cli.main import main
main()
"""


def start(quick: bool) -> Rows:
    """Wall time from the command to the end of its first update: cold and warm compile cache."""
    seconds: dict[str, list[float]] = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": os.path.join(folder, "cache")}
        for number in range(2 if quick else 8):
            command = [
                sys.executable, "-P", "-c", _FIRST_UPDATE,
                "train", "Swimmer-v4", "--algo", "nres", "--updates", "1",
                "--run-dir", os.path.join(folder, f"run{number}"), "--quiet",
            ]  # fmt: skip
            begin = time.time()
            output = subprocess.run(
                command, check=True, env=environment, capture_output=True, text=True
            ).stderr
            at = float(output.split("first update at")[1].split()[0])
            seconds["cold" if number == 0 else "warm"].append(at - begin)
    return [
        {"compile cache": cache, "seconds": f"{statistics.median(v):.2f}", "runs": len(v)}
        for cache, v in seconds.items()
    ]


SECTIONS = {f.__name__: f for f in (threads, rows, million, kernels, windows, start)}


def _resident() -> int:
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sections", default=",".join(SECTIONS), help="comma-separated")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args()
    figures = {}
    for name in options.sections.split(","):
        figures[name] = SECTIONS[name](options.quick)
        print(f"\n{(SECTIONS[name].__doc__ or '').strip()}\n\n{table(figures[name])}", flush=True)
    if options.json:
        write_json(options.json, json.loads(json.dumps(figures)))


if __name__ == "__main__":
    main()
