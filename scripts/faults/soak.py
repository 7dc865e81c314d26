"""Many updates in one process: does anything grow?

    python scripts/faults/soak.py --updates 100000

Trains on a small task, through everything that a long run has: evaluations, checkpoints, progress,
TensorBoard's events. Resident memory, open files, threads and files on disk are looked at ten
times; after the first fifth none may grow, memory by no more than --slack MiB.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

from es_rl import run_loop
from es_rl.config_layers import resolve
from es_rl.run import train

MIB = 1 << 20

KEPT = 3
"""Checkpoints that a run keeps."""


class Sample(NamedTuple):
    updates: int
    seconds: float
    memory: float  # MiB
    handles: int
    threads: int
    files: int
    events: float  # MiB
    progress: float  # MiB


def size(folder: Path, pattern: str) -> float:
    return sum(path.stat().st_size for path in folder.glob(pattern)) / MIB


class Watch:
    """A display that looks at its own process every so many updates."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every
        self.samples: list[Sample] = []
        self.begun = time.monotonic()

    def opened(self, *_: object) -> None: ...
    def adapted(self, *_: object) -> None: ...
    def evaluating(self, *_: object) -> None: ...
    def note(self, text: str) -> None:
        print(text)

    def row(self, row: object, best: object) -> None:
        update = row.update
        if update % self.every:
            return
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        sample = Sample(
            update,
            time.monotonic() - self.begun,
            pages * os.sysconf("SC_PAGE_SIZE") / MIB,
            len(os.listdir("/proc/self/fd")),
            len(os.listdir("/proc/self/task")),
            sum(len(files) for _, _, files in os.walk(self.folder)),
            size(self.folder, "events.*"),
            size(self.folder, "progress.csv"),
        )
        self.samples.append(sample)
        print(
            f"{sample.updates:>8,} updates {sample.seconds:7.0f} s  {sample.memory:7.1f} MiB "
            f"{sample.handles:3} handles {sample.threads:3} threads {sample.files:3} files  events "
            f"{sample.events:.2f} MiB  progress {sample.progress:.2f} MiB",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=100_000)
    parser.add_argument("--env", default="InvertedPendulum-v5")
    parser.add_argument("--slack", type=float, default=4.0, metavar="MiB")
    args = parser.parse_args()
    # a checkpoint a hundred times as often as a run of a day writes them
    run_loop.CHECKPOINT_SECONDS, run_loop.CHECKPOINT_SHARE = 0.5, 0.1
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        given = {
            "env": args.env, "algo": "nres", "n_pairs": 2, "unroll_length": 2, "threads": 1,
            "env_kwargs": {"max_episode_steps": 20}, "updates": args.updates,
            "eval_every": max(1, args.updates // 1000), "eval_episodes": 1,
            "keep_checkpoints": KEPT,
        }  # fmt: skip
        watch = Watch(folder, max(1, args.updates // 10))
        result = train(resolve(given).config, str(folder), display=watch)
    settled = watch.samples[1:]
    first, last = settled[0], settled[-1]
    # a short run may still be on its way to as many checkpoints as are kept
    room = {"handles": 0, "threads": 0, "files": KEPT}
    grown = [
        name for name, more in room.items() if getattr(last, name) > getattr(first, name) + more
    ]
    if last.memory > first.memory + args.slack:
        grown.append("memory")
    print(
        f"{result.updates:,} updates: memory {last.memory - first.memory:+.1f} MiB between update "
        f"{first.updates:,} and {last.updates:,}; {threading.active_count()} Python thread left"
    )
    if grown:
        sys.exit(f"these grew: {', '.join(grown)}")


if __name__ == "__main__":
    main()
