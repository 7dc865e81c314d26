"""Kill a run at random moments, resume it each time, and compare it with one never killed.

    python scripts/faults/kill_runs.py --kills 50

Checkpoints are written after every update, so that many of the kills fall into one. The moments
are spread over the whole run. The end results, progress and both policies, must be the same bytes.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ENTRY = (
    "import es_rl.run_loop as loop\n"
    "loop.CHECKPOINT_SECONDS, loop.CHECKPOINT_SHARE = -1.0, 1e9\n"
    "from es_rl.cli.main import main\n"
    "main()"
)


def command(*words: str) -> list[str]:
    # -P: the folder that this was called from is not the installed package
    return [sys.executable, "-P", "-c", ENTRY, *words]


def results(folder: Path) -> list[bytes]:
    """Progress without its column of times, and both policies."""
    lines = [line.split(b",") for line in (folder / "progress.csv").read_bytes().split(b"\n")[:-1]]
    column = lines[0].index(b"wall_time")
    table = b"\n".join(b",".join(line[:column] + line[column + 1 :]) for line in lines)
    return [table, *((folder / name).read_bytes() for name in ("policy.npz", "best_policy.npz"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--env", default="Swimmer-v4")
    parser.add_argument("--engine", default="auto")
    args = parser.parse_args()
    chance = random.Random(args.seed)
    train = [
        "train", args.env, "--algo", "nres", "--n-pairs", "8", "--unroll-length", "20",
        "--env-kwargs", "max_episode_steps=100", "--eval-every", "40", "--eval-episodes", "2",
        "--updates", str(args.updates), "--threads", "1", "--seed", "3", "--engine", args.engine,
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        whole, run = Path(scratch) / "whole", Path(scratch) / "run"
        subprocess.run(command(*train, "--run-dir", str(whole), "--quiet"), check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
        begun = time.monotonic()
        inside = lost = kills = sessions = reached = 0
        words = [*train, "--run-dir", str(run)]
        while True:
            sessions += 1
            process = subprocess.Popen(
                command(*words, "--quiet"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            if kills < args.kills:
                progress = run / "progress.csv"
                reached += chance.randint(0, args.updates // args.kills)
                while process.poll() is None:
                    # one line for the header, the others each for an update
                    if progress.exists() and progress.read_bytes().count(b"\n") > reached:
                        break
                    time.sleep(0.002)
                time.sleep(chance.uniform(0.0, 0.02))
                process.send_signal(signal.SIGKILL)
            _, error = process.communicate()
            if process.returncode == 0:
                break
            if process.returncode != -signal.SIGKILL:
                sys.exit(f"after {kills} kills a session failed:\n{error.decode()}")
            kills += 1
            inside += bool(list(run.rglob(".*.tmp")))
            words = ["train", "--run-dir", str(run), "--resume"]
            if not (run / "config.yaml").exists():
                words = [*train, "--run-dir", str(run)]
                lost += 1
        same = results(whole) == results(run)
        print(
            f"{kills} kills in {sessions} sessions and {time.monotonic() - begun:.0f} s, {inside} "
            f"of them while a file was being written, {lost} before there was a run; the end "
            f"result is {'the same, bit for bit' if same else 'ANOTHER'}"
        )
        if not same or kills < args.kills:
            sys.exit(f"results differ, or the run ended after {kills} of {args.kills} kills")


if __name__ == "__main__":
    main()
