"""A few windows of the native engine, for valgrind; and what to make of its log.

valgrind --log-file=log python scripts/faults/engine_windows.py
python scripts/faults/engine_windows.py --judge log
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def windows() -> None:
    import numpy as np

    from es_rl import LinearPolicy
    from es_rl.envs.making import make_env, make_task

    for env_id in ("Swimmer-v4", "Hopper-v5"):
        env = make_env(env_id)
        policy = LinearPolicy(env.observation_space, env.action_space)
        with make_task(env_id, policy, n_threads=2) as task:
            rows = np.arange(4)
            task.allocate(rows.size)
            task.reset(rows, rows.astype(np.uint64))
            thetas = 0.1 * np.ones((rows.size, policy.num_params))
            result = task.unroll(rows, thetas, np.full(rows.size, 4))
            task.copy_rows(rows[:2], rows[2:])
            task.set_state(task.get_state())
            task.unroll(rows[1:], thetas[1:], np.full(3, 2))
            print(env_id, result.steps_taken, np.isfinite(result.loss_sum).all())
        env.close()


def judge(log: Path) -> None:
    """Count the reports with MuJoCo's library, or code that numba compiled, on their stacks."""
    reports = re.split(r"(?m)^==\d+== $", log.read_text(errors="replace"))
    errors = [
        report
        for report in reports
        if re.search(r"Invalid (read|write|free)|uninitialised|Mismatched|overlap", report)
    ]
    ours = [report for report in errors if re.search(r"libmujoco|mjb_|mj_|mju_", report)]
    print(f"{len(errors)} reports in all, {len(ours)} with MuJoCo on the stack")
    if ours:
        print("\n".join(ours[:5]))
        sys.exit(1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--judge"]:
        judge(Path(sys.argv[2]))
    else:
        windows()
