"""Kill workers of a run on Ray at random moments, and compare it with one without Ray.

    python scripts/faults/kill_workers.py --kills 10

Each worker that dies is replaced and its pairs are put back to where they stood, so the end
results, progress and both policies, must be the same bytes.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kill_runs import results


def actors(parent: int) -> list[int]:
    """Return the processes of our Ray actors among all descendants of `parent`."""
    parents, titles = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            titles[int(entry.name)] = (entry / "cmdline").read_bytes().split(b"\0")[0]
            # the name of the program stands in brackets and may hold spaces
            parents[int(entry.name)] = int(
                (entry / "stat").read_text().rpartition(")")[2].split()[1]
            )
        except (OSError, IndexError):
            continue  # it has ended meanwhile

    def descends(pid: int) -> bool:
        while pid in parents and pid != parent:
            pid = parents[pid]
        return pid == parent

    return [
        pid
        for pid, title in titles.items()
        if title.startswith(b"ray::ShareHolder") and descends(pid)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    train = [
        sys.executable, "-P", "-c", "from es_rl.cli.main import main; main()", "train",
        "Swimmer-v4", "--algo", "nres", "--n-pairs", str(8 * args.workers), "--unroll-length", "20",
        "--updates", str(args.updates), "--eval-every", "1000", "--eval-episodes", "1",
        "--seed", "3", "--quiet",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        whole, run = Path(scratch) / "whole", Path(scratch) / "run"
        # both from elsewhere: Ray lets workers import from the directory of the command, and the
        # repository's folder es_rl is not the installed package
        here = [*train, "--run-dir", str(whole)]
        subprocess.run(here, check=True, stdout=subprocess.DEVNULL, cwd=scratch)
        on_ray = [*train, "--run-dir", str(run), "--engine", "ray", "--workers", str(args.workers)]
        begun, kills = time.monotonic(), 0
        with (Path(scratch) / "output").open("w+b") as output:
            process = subprocess.Popen(on_ray, stdout=output, stderr=subprocess.STDOUT, cwd=scratch)
            progress = run / "progress.csv"
            reached = 0
            while process.poll() is None and kills < args.kills:
                done = progress.read_bytes().count(b"\n") if progress.exists() else 0
                if done > reached and (found := actors(process.pid)):
                    os.kill(chance.choice(found), signal.SIGKILL)
                    kills += 1
                    # the next one meets a worker that goes on, or that is still being put back
                    reached = done + chance.randint(1, args.updates // args.kills // 2)
                time.sleep(chance.uniform(0.0, 0.01))
            if process.wait() != 0:
                output.seek(0)
                said = output.read().decode()
                sys.exit(f"after {kills} kills the run ended with {process.returncode}:\n{said}")
        seconds = time.monotonic() - begun
        if results(whole) != results(run):
            sys.exit(f"after {kills} kills the results differ")
        print(f"{kills} kills of {args.workers} workers in {seconds:.0f} s: the same bytes")
        if kills < args.kills:
            sys.exit(f"the run ended before {args.kills} kills: give it more --updates")


if __name__ == "__main__":
    main()
