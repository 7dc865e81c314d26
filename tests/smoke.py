"""What must work from an installed wheel, run as a script from a directory without the sources."""

from pathlib import Path

import gymnasium as gym
import numpy as np

import es_rl
from es_rl.envs import make_task
from es_rl.estimators import NRES

here = Path.cwd().resolve()
source = Path(es_rl.__file__).resolve()
assert here not in source.parents, f"{source} is not the installed package"
assert (source.parent / "py.typed").is_file()
assert list((source.parent / "presets").glob("*.yaml")), "the presets were not installed"

env = gym.make("Swimmer-v5")
policy = es_rl.LinearPolicy(env.observation_space, env.action_space)
with make_task("Swimmer-v5", policy) as task:
    estimator = NRES(task, n_pairs=4, unroll_length=10, sigma=0.1)
    estimator.reset(np.zeros(policy.num_params))
    estimate = estimator.estimate(np.zeros(policy.num_params))
assert estimate.total_steps == 80
assert np.isfinite(estimate.gradient).all()
print("smoke test passed:", source.parent)
