"""Feed random input to every reader of files and text, for as long as one likes.

    python scripts/faults/fuzz.py --seconds 60
    python scripts/faults/fuzz.py --seconds 60 --engine atheris --target config_file

Without --target each reader gets its share of the time. The engine `random` mutates the seeds of
tests/fuzz_targets.py; `atheris` (a package of that name; there are wheels for Linux) is guided by
the lines and branches that an input reaches, in pure Python code. An input that leads to anything
but a documented error is written to a file, and ends the program with exit code 1.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
MEMORY = 4 << 30
PIECES = (b"0", b"-1", b"9" * 30, b"1e999", b"[" * 60, b"*a", b"&a ", b"null", b"\n", b"nan", b"{")


def mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    """A seed with some stretches replaced, left out, taken from another one, or said again."""
    data = chance.choice(seeds)
    for _ in range(chance.randint(0, 5)):
        start = chance.randint(0, len(data))
        stop = min(len(data), start + chance.randint(0, 12))
        other = chance.choice(seeds)
        at = chance.randint(0, len(other))
        piece = chance.choice(
            (chance.randbytes(chance.randint(0, 8)), chance.choice(PIECES),
             data[start : start + 20], other[at : at + chance.randint(0, 30)])
        )  # fmt: skip
        data = data[:start] + piece + data[stop:]
    if data and chance.random() < 0.3:
        at = chance.randrange(len(data))
        data = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
    return data


def with_random(name: str, seconds: float, seed: int) -> int:
    from fuzz_targets import SEEDS, TARGETS

    chance, count = random.Random(seed), 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        data = mutated(chance, list(SEEDS[name]))
        count += 1
        try:
            TARGETS[name](data)
        except BaseException:
            path = f"fuzz-{name}.bin"
            Path(path).write_bytes(data)
            traceback.print_exc()
            sys.exit(f"{name}: input {count} is in {path}")
    return count


def with_atheris(name: str, seconds: float, seed: int) -> None:
    import atheris

    with atheris.instrument_imports(include=["es_rl", "yaml", "fuzz_targets"]):
        from fuzz_targets import SEEDS, TARGETS
    folder = Path(os.environ["ES_RL_CORPUS"])
    for i, data in enumerate(SEEDS[name]):
        (folder / f"seed-{i}").write_bytes(data)
    atheris.Setup(
        [sys.argv[0], str(folder), f"-max_total_time={int(seconds)}", f"-seed={seed + 1}",
         "-rss_limit_mb=4096", "-max_len=1000", "-timeout=60", "-print_final_stats=1"],
        TARGETS[name],
    )  # fmt: skip
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--engine", choices=("random", "atheris"), default="random")
    parser.add_argument("--target")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.engine == "atheris" and args.target:
        with_atheris(args.target, args.seconds, args.seed)
        return
    from fuzz_targets import TARGETS

    names = [args.target] if args.target else list(TARGETS)
    share = args.seconds / len(names)
    if args.engine == "random":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    total = 0
    for name in names:
        if args.engine == "random":
            count = with_random(name, share, args.seed)
        else:
            count = by_atheris(name, share, args.seed)
        total += count
        print(f"{name:16} {count:>9,} inputs, none with a surprise", flush=True)
    print(f"{total:,} inputs in {args.seconds:.0f} s")


def by_atheris(name: str, seconds: float, seed: int) -> int:
    """Run one target in a process of its own, which libFuzzer ends; return its number of inputs."""
    with tempfile.TemporaryDirectory() as corpus:
        words = [__file__, "--engine", "atheris", "--target", name, "--seconds", str(seconds)]
        done = subprocess.run(
            [sys.executable, *words, "--seed", str(seed)],
            env={**os.environ, "ES_RL_CORPUS": corpus}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        sys.exit(f"{name}:\n{done.stderr[-4000:]}")
    marked = [line for line in done.stderr.splitlines() if "number_of_executed_units" in line]
    return int(marked[0].split()[-1])


if __name__ == "__main__":
    main()
