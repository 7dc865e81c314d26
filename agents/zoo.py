"""The agents in RL Baselines3 Zoo.

    python -m es_rl.agents.zoo train --algo nres --env Swimmer-v4 -conf nres.yml
    python -m es_rl.agents.zoo enjoy --algo nres --env Swimmer-v4 -f logs --no-render

run rl_zoo3's own `train` and `enjoy` with the agents among its algorithms. A hyperparameter file
has the constructor's arguments under each environment's id, or under `default`:

    Swimmer-v4:
      n_timesteps: 300000
      policy: LinearPolicy
      n_pairs: 30
      unroll_length: 100
      sigma: 0.3
      learning_rate: 3.0
"""

from __future__ import annotations

import sys

__all__ = ["main", "register_rl_zoo3"]

_COMMANDS = ("train", "enjoy")
_CONFIG = ("-conf", "--conf")


def register_rl_zoo3() -> list[str]:
    """Add the agents to the algorithms of rl_zoo3, as nres, pes, gpes, tes and fulles.

    Returns:
        the names that stand for agents of this library there.

    Raises:
        ImportError: if rl_zoo3, or what it needs, is not installed.
    """
    from rl_zoo3.utils import ALGOS

    from es_rl.agents.algorithms import AGENTS

    # "ars" is sb3-contrib's there, and stays so
    ALGOS.update({name: agent for name, agent in AGENTS.items() if name not in ALGOS})
    return [name for name, agent in AGENTS.items() if ALGOS[name] is agent]


def _algorithm(arguments: list[str]) -> str | None:
    """Return the value of --algo."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name == "--algo":
            return value if equals else following
    return None


def main() -> None:
    """Run rl_zoo3's command that the first argument names."""
    command = sys.argv.pop(1) if len(sys.argv) > 1 else None
    if command not in _COMMANDS:
        sys.exit(f"usage: python -m es_rl.agents.zoo {{{','.join(_COMMANDS)}}} [rl_zoo3's options]")
    ours = register_rl_zoo3()
    has_settings = any(argument.startswith(_CONFIG) for argument in sys.argv)
    if command == "train" and not has_settings and _algorithm(sys.argv) in ours:
        sys.exit(
            f"--algo {_algorithm(sys.argv)}: rl_zoo3 has no settings for it: pass a file, "
            "-conf FILE"
        )
    if command == "train":
        from rl_zoo3.train import train as run
    else:
        from rl_zoo3.enjoy import enjoy as run
    run()


if __name__ == "__main__":
    main()
