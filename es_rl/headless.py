"""Rendering without a display: which OpenGL MuJoCo is to use. Call it before MuJoCo is imported."""

from __future__ import annotations

import os
import subprocess
import sys

__all__ = ["use_headless_gl"]

_PROBE = "import mujoco; c = mujoco.GLContext(16, 16); c.make_current(); c.free()"
_PROBE_SECONDS = 60
_LIBRARIES = {"egl": "libegl1", "osmesa": "libosmesa6"}


def use_headless_gl() -> str | None:
    """Set MUJOCO_GL so that MuJoCo renders without a display, and SDL's drivers for pygame.

    EGL is taken where it works, else OSMesa. A choice that the user made in the environment
    stands. Only Linux needs one.

    Returns:
        What the user should know if EGL does not work, in one line; None if it does.
    """
    if not sys.platform.startswith("linux"):
        return None
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        # else SDL looks for a screen and a sound card, and complains on stderr
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    if os.environ.get("MUJOCO_GL"):
        return None
    reasons: dict[str, str] = {}
    for backend in ("egl", "osmesa"):
        reason = _why_not(backend)
        if reason is None:
            os.environ["MUJOCO_GL"] = backend
            if backend == "egl":
                return None
            return f"EGL does not work here ({reasons['egl']}): OSMesa renders, more slowly"
        reasons[backend] = reason
    os.environ["MUJOCO_GL"] = "egl"
    told = "; ".join(f"{backend}: {reason}" for backend, reason in reasons.items())
    names = " or ".join(_LIBRARIES.values())
    return f"neither EGL nor OSMesa works here ({told}): install the system's {names}"


def _why_not(backend: str) -> str | None:
    """Return why a context of this kind cannot be made; None if it can.

    Asked in a process of its own, because a process that has tried one kind cannot try another.
    """
    environment = {**os.environ, "MUJOCO_GL": backend}
    environment.pop("PYOPENGL_PLATFORM", None)
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env=environment, capture_output=True, text=True, timeout=_PROBE_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"no answer within {_PROBE_SECONDS} s"
    if probe.returncode == 0:
        return None
    lines = [line for line in probe.stderr.splitlines() if line and not line.startswith(" ")]
    return lines[-1] if lines else f"exit code {probe.returncode}"
