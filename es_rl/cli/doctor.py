"""`es-rl doctor`: is this installation sound, and how fast is it?"""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated, Any, NamedTuple

import typer

__all__ = ["Check", "compare_engines", "doctor"]

_COMPARED = ("Swimmer-v4", "HalfCheetah-v5", "Hopper-v5")
_ROWS, _STEPS = 4, 50
_TIMED = "Swimmer-v4"


class Check(NamedTuple):
    """One thing that was looked at.

    Attributes:
        name: what.
        ok: whether it is as it should be.
        detail: what was found, and the way out if it is not.
    """

    name: str
    ok: bool
    detail: str


def compare_engines(env_id: str) -> Check:
    """Unroll a few random policies on both engines and compare rewards and steps, bit for bit."""
    import numpy as np

    from es_rl.envs import GymnasiumTask, make_task
    from es_rl.envs.making import make_env
    from es_rl.policies import LinearPolicy

    env = make_env(env_id)
    policy = LinearPolicy(env.observation_space, env.action_space)
    env.close()
    rows = np.arange(_ROWS)
    thetas = np.random.default_rng(0).normal(0.0, 0.3, (_ROWS, policy.num_params))
    results = []
    with (
        make_task(env_id, policy, engine="native") as native,
        GymnasiumTask(env_id, policy, n_workers=0) as twin,
    ):
        for task in (native, twin):
            task.allocate(_ROWS)
            task.reset(rows, rows.astype(np.uint64))
            results.append(task.unroll(rows, thetas, np.full(_ROWS, _STEPS)))
    same = all(np.array_equal(a, b) for a, b in zip(*results, strict=True))
    verdict = "identical to Gymnasium's" if same else "DIFFERENT: train with --engine gymnasium"
    steps = results[0].steps_taken.sum()
    return Check(f"native {env_id}", same, f"{_ROWS} copies, {steps} steps, {verdict}")


def _speed() -> Check:
    """Time whole windows of training."""
    from es_rl.assembly import assemble
    from es_rl.config_layers import resolve

    config = resolve({"env": _TIMED, "algo": "nres"}).config
    with assemble(config) as assembly:
        trainer = assembly.trainer
        trainer.update()
        steps, begin = trainer.total_steps, time.perf_counter()
        while time.perf_counter() - begin < 1.0:
            trainer.update()
        rate = (trainer.total_steps - steps) / (time.perf_counter() - begin)
    return Check("speed", True, f"{rate:,.0f} steps/s training {_TIMED} by nres")


def _threads() -> Check:
    import os

    from es_rl.perturbations import usable_cpus

    n = usable_cpus()
    detail = f"{n} processors usable of {os.cpu_count()}"
    spinning = [f"{key}={os.environ[key]}" for key in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
                if key in os.environ]  # fmt: skip
    return Check("threads", True, ", ".join([detail, *spinning]))


def _memory() -> Check:
    import os

    if not hasattr(os, "sysconf") or "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return Check("memory", True, "unknown on this system")
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = (page * os.sysconf(name) / 2**30 for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    ok = total > 1.0
    return Check("memory", ok, f"{total:.1f} GiB, {free:.1f} GiB unused")


def _clock() -> Check:
    """MuJoCo's profiling clock must be off while the engine steps, and back afterwards."""
    from ctypes import c_void_p

    import mujoco  # noqa: F401  (it installs the clock)

    from es_rl.envs.mujoco.library import load_library, without_clock

    clock = c_void_p.in_dll(load_library(), "mjcb_time")
    before = clock.value
    with without_clock():
        inside = clock.value
    ok = inside is None and clock.value == before
    return Check("clock", ok, f"MuJoCo's profiling clock is {'off' if ok else 'ON'} while stepping")


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Check this installation: versions, threads, the native engine against Gymnasium, speed.

    The exit code is 1 if something is wrong.
    """
    from es_rl.run import versions

    found = versions()
    checks: list[Check] = [
        Check("versions", "missing" not in found.values(),
              ", ".join(f"{name} {version}" for name, version in found.items())),
        _threads(),
        _memory(),
        _clock(),
    ]  # fmt: skip
    if not as_json:
        _print(checks)
    slow: list[Any] = [lambda env_id=env_id: compare_engines(env_id) for env_id in _COMPARED]
    for make_check in [*slow, _speed]:
        check = make_check()
        checks.append(check)
        if not as_json:
            _print([check])
    ok = all(check.ok for check in checks)
    if as_json:
        facts = {"ok": ok, "versions": found, "checks": [check._asdict() for check in checks]}
        print(json.dumps(facts, indent=2))
    elif not ok:
        print("something is wrong: see the lines marked ✗", file=sys.stderr)
    return 0 if ok else 1


def _print(checks: list[Check]) -> None:
    for check in checks:
        print(f"{'✓' if check.ok else '✗'} {check.name:<22} {check.detail}", flush=True)
