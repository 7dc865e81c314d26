"""Every option of a training run: its range, its default, and what it applies to.

Importing this module is cheap: the command line builds its help from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from es_rl.option_kinds import (
    Boolean,
    Choice,
    Integer,
    KeyValues,
    Kind,
    LearningRateSchedule,
    Names,
    Real,
    Span,
    Text,
    Widths,
)

__all__ = [
    "ALGORITHMS",
    "BUDGETS",
    "DEFAULT_OBSERVATION_CLIP",
    "DEFAULT_SHAPINGS",
    "DEFAULT_UNROLL_LENGTH",
    "INIT_SCALES",
    "OPTIONS",
    "POLICY_OPTIONS",
    "RAY_OPTIONS",
    "REQUIRED",
    "WINDOWED",
    "Option",
]

ALGORITHMS: Mapping[str, str] = {
    "nres": "Noise-Reuse ES: one noise an episode, online, unbiased, least variance",
    "pes": "Persistent ES: new noise every window, online, unbiased",
    "gpes": "Generalised PES: new noise every --noise-period steps, online, unbiased",
    "tes": "Truncated ES: online, biased towards short horizons",
    "fulles": "Full ES: whole episodes, unbiased, one update an episode",
    "ars": "Augmented random search: Full ES over the returns' standard deviation, best pairs",
}
"""The algorithms, each with one line about it."""

BUDGETS = ("updates", "total_steps", "sequential_steps")
"""Ends of a run counted in work; a later layer that gives one replaces all of an earlier layer."""

POLICY_OPTIONS = ("hidden", "activation", "bias", "init_scale")
"""Options that belong to a kind of policy and go when a later layer chooses another kind."""

DEFAULT_OBSERVATION_CLIP = 10.0
"""Where observations are normalised and nothing says otherwise."""

DEFAULT_SHAPINGS: Mapping[str, str] = {"ars": "returns"}
"""Default `shaping` of the algorithms that have one of their own."""

DEFAULT_UNROLL_LENGTH = 100
"""W where nothing says otherwise; shorter if the episode is."""

INIT_SCALES: Mapping[str, float] = {"linear": 0.0, "mlp": 1.0}
"""Default `init_scale` of each policy. An MLP of zeros answers +ε and -ε alike, to first order."""

RAY_OPTIONS = ("workers", "ray_address", "worker_timeout")
"""Options of `--engine ray` alone."""

WINDOWED = ("nres", "pes", "gpes", "tes")


MAX_THREADS = 1024
MAX_WORKERS = 100_000
MAX_LENGTH = 10**9
"""Of a window, an episode and a population; sums of their steps then stay far below 2**63."""
MAX_STEPS = 10**18


REQUIRED: Any = object()
"""Default of an option that has none."""


class Option(NamedTuple):
    """What is known of one option.

    Attributes:
        kind: how its values are read and checked.
        group: heading in the command line's help.
        help: one line for the command line.
        default: where neither a preset nor the user gives a value; `REQUIRED` if there is none.
        algos: the algorithms it applies to; empty for all.
        policies: the policies it applies to; empty for all.
        optional: whether it may be left open (None).
        resumable: whether a resumed run may be given another value.
    """

    kind: Kind
    group: str
    help: str
    default: Any = None
    algos: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    optional: bool = False
    resumable: bool = False


_MAIN, _BUDGET, _ESTIMATOR = "Task", "When to stop", "Estimator"
_OPTIMIZER, _POLICY, _EVALUATION = "Optimiser", "Policy", "Evaluation"
_RUN = "Run"

OPTIONS: Mapping[str, Option] = {
    "env": Option(Text(), _MAIN, "Environment to train on.", default=REQUIRED),
    "algo": Option(Choice(tuple(ALGORITHMS)), _MAIN, "Algorithm.", default=REQUIRED),
    "seed": Option(Integer(0, 2**64 - 1), _MAIN, "Seed of all randomness.", default=0),
    "env_kwargs": Option(KeyValues(), _MAIN, "Keyword arguments of the environment.", default={}),
    "import_modules": Option(
        Names(), _MAIN, "Module to import first, one that registers environments.", default=()
    ),
    "engine": Option(
        Choice(("auto", "native", "gymnasium", "ray")),
        _MAIN,
        "What runs the environment; auto takes native where there is one. ray does so too, and "
        "spreads the pairs over processes, on one or many machines.",
        default="auto",
    ),
    "threads": Option(
        Integer(1, MAX_THREADS),
        _MAIN,
        "Threads (or worker processes); default: all processors, with --engine ray one for each "
        "worker. Results do not depend on it.",
        optional=True,
        resumable=True,
    ),
    "workers": Option(
        Integer(1, MAX_WORKERS),
        _MAIN,
        "Processes of --engine ray that share the pairs; default: as many as its processors and "
        "the pairs suffice for. Results do not depend on it.",
        optional=True,
        resumable=True,
    ),
    "ray_address": Option(
        Text(),
        _MAIN,
        "Ray cluster for --engine ray, such as auto or HOST:6379; default: this machine alone.",
        optional=True,
        resumable=True,
    ),
    "worker_timeout": Option(
        Real(above=0),
        _MAIN,
        "Seconds that a worker of --engine ray may take for one window before it is replaced; "
        "default: 600.",
        optional=True,
        resumable=True,
    ),
    "step_timeout": Option(
        Real(above=0),
        _MAIN,
        "Seconds that one step or reset may take before its environment is named and the run ends "
        "(engine gymnasium; the native one cannot hang).",
        default=600.0,
        resumable=True,
    ),
    "updates": Option(
        Integer(1, MAX_STEPS), _BUDGET, "Updates to make.", optional=True, resumable=True
    ),
    "total_steps": Option(
        Integer(1, MAX_STEPS),
        _BUDGET,
        "Environment steps over all copies, the start-up included, evaluation not.",
        optional=True,
        resumable=True,
    ),
    "sequential_steps": Option(
        Integer(1, MAX_STEPS),
        _BUDGET,
        "Steps that have to happen one after another.",
        optional=True,
        resumable=True,
    ),
    "max_time": Option(
        Real(above=0),
        _BUDGET,
        "Seconds, all sessions of the run together.",
        optional=True,
        resumable=True,
    ),
    "stop_at": Option(
        Real(),
        _BUDGET,
        "Stop when an evaluation's mean reward reaches this.",
        optional=True,
        resumable=True,
    ),
    "n_pairs": Option(Integer(1, MAX_LENGTH), _ESTIMATOR, "N: antithetic pairs.", default=REQUIRED),
    "unroll_length": Option(
        Integer(1, MAX_LENGTH),
        _ESTIMATOR,
        "W: steps of a window, so of an update; default: 100, or a shorter episode.",
        optional=True,
        algos=WINDOWED,
    ),
    "noise_period": Option(
        Integer(1, MAX_LENGTH),
        _ESTIMATOR,
        "K: steps that share one noise, a multiple of W; default: the episode (gpes only).",
        optional=True,
        algos=("gpes",),
    ),
    "horizon": Option(
        Integer(1, MAX_LENGTH),
        _ESTIMATOR,
        "T: steps of a training episode; default: the environment's limit.",
        optional=True,
    ),
    "integrator": Option(
        Choice(("euler", "implicit", "implicitfast", "rk4")),
        _ESTIMATOR,
        "MuJoCo's integrator in training; default: the model's own, which evaluation always has. "
        "euler takes a third to a quarter of the time of the Runge-Kutta of most tasks.",
        optional=True,
    ),
    "integrator_steps": Option(
        Integer(1, MAX_STEPS),
        _ESTIMATOR,
        "Total steps after which training goes on with the model's own integrator; default: never.",
        optional=True,
    ),
    "sigma": Option(
        Real(above=0),
        _ESTIMATOR,
        "Standard deviation of the parameter perturbations.",
        default=REQUIRED,
    ),
    "staggering": Option(
        Choice(("stratified", "iid", "lockstep")),
        _ESTIMATOR,
        "Where in their episodes the pairs start (not for fulles and ars).",
        default="stratified",
        algos=WINDOWED,
    ),
    "shaping": Option(
        Choice(("none", "std", "ranks", "sign", "returns")),
        _ESTIMATOR,
        "What a pair's loss difference weighs: itself, over its standard deviation, its rank, its "
        "sign, or over the returns' (fulles and ars only; default of ars). Shaped, learning rates "
        "are in units of θ.",
        default="none",
    ),
    "top_pairs": Option(
        Integer(1, MAX_LENGTH),
        _ESTIMATOR,
        "How many pairs, the best ones, make the gradient; default: all.",
        optional=True,
    ),
    "reward_offset": Option(
        # beside a larger one, rewards of size one would hardly be seen
        Real(within=1e12),
        _ESTIMATOR,
        "Taken off every step's reward in training, such as the bonus for being alive.",
        default=0.0,
    ),
    "noise": Option(
        Choice(("gaussian", "fixed-norm", "orthogonal", "orthogonal-fixed-norm")),
        _ESTIMATOR,
        "Perturbations: Gaussian, of one length, orthogonal in groups of pairs, or both.",
        default="gaussian",
    ),
    "adapt_sigma": Option(
        Real(at_least=0),
        _ESTIMATOR,
        "How far the logarithm of sigma may move in an update, such as 0.05; 0: it stays.",
        default=0.0,
    ),
    "refresh_drift": Option(
        Real(at_least=0),
        _ESTIMATOR,
        "How far θ may move, in units of σ√d, before a pair's episode is unrolled again from its "
        "start, such as 0.5; 0: never (not for fulles and ars).",
        default=0.0,
        algos=WINDOWED,
    ),
    "unroll_range": Option(
        Span(),
        _ESTIMATOR,
        "Shortest and longest W, which is adapted between them: halved where successive windows "
        "agree, doubled where they cancel (nres and gpes only); default: it stays.",
        optional=True,
        algos=("nres", "gpes"),
    ),
    "optimizer": Option(
        Choice(("sgd", "momentum", "adam", "clipup")), _OPTIMIZER, "Optimiser.", default=REQUIRED
    ),
    "learning_rate": Option(
        Real(above=0), _OPTIMIZER, "Learning rate at the start.", default=REQUIRED
    ),
    "momentum": Option(
        Real(at_least=0),
        _OPTIMIZER,
        "Share of its velocity that momentum or clipup keeps, below 1; default: 0.9.",
        optional=True,
    ),
    "weight_decay": Option(
        Real(at_least=0),
        _OPTIMIZER,
        "Share of the parameters that an update takes away, in units of the learning rate; "
        "default: 0.",
        optional=True,
    ),
    "lr_schedule": Option(
        LearningRateSchedule(),
        _OPTIMIZER,
        "constant, piecewise:WHEN=FACTOR,..., linear:WHEN[:END_FACTOR] or "
        "cosine:WHEN[:END_FACTOR]; WHEN is in updates, or in steps: 2500000steps.",
        default="constant",
    ),
    "starts": Option(
        Integer(1, 1000),
        _OPTIMIZER,
        "How many trainings to begin, each with a seed of its own; the one with the best policy "
        "goes on; default: 1.",
        optional=True,
    ),
    "start_steps": Option(
        Integer(1, MAX_STEPS),
        _OPTIMIZER,
        "Total steps of each of them, before they are judged (with --starts 2 or more).",
        optional=True,
    ),
    "start_reward": Option(
        Real(),
        _OPTIMIZER,
        "Reward from which on a start that is judged goes on at once, without those after it "
        "(with --starts 2 or more).",
        optional=True,
    ),
    "policy": Option(Choice(("linear", "mlp")), _POLICY, "Kind of policy.", default="linear"),
    "hidden": Option(
        Widths(),
        _POLICY,
        "Widths of the hidden layers (mlp only).",
        default=(64, 64),
        policies=("mlp",),
    ),
    "activation": Option(
        Choice(("tanh", "relu")),
        _POLICY,
        "Activation of the hidden layers (mlp only).",
        default="tanh",
        policies=("mlp",),
    ),
    "bias": Option(
        Boolean(),
        _POLICY,
        "Whether the linear policy has a bias; an mlp always has.",
        default=False,
        policies=("linear",),
    ),
    "init_scale": Option(
        Real(at_least=0),
        _POLICY,
        "Variance of the first weights times the layer's inputs; default: 0, mlp: 1.",
    ),
    "clip_actions": Option(
        Boolean(), _POLICY, "Whether actions are clipped to the action space.", default=False
    ),
    "squash_actions": Option(
        Boolean(),
        _POLICY,
        "Whether tanh maps actions to the action space.",
        default=False,
    ),
    "normalize_observations": Option(
        Boolean(),
        _POLICY,
        "Whether observations are normalised by their running mean and standard deviation.",
        default=False,
    ),
    "observation_clip": Option(
        Real(at_least=0),
        _POLICY,
        "What the size of a normalised observation is clipped to, 0: nothing; default: 10.",
        optional=True,
    ),
    "eval_every": Option(
        Integer(0), _EVALUATION, "Updates between evaluations; 0: only at the end.", default=10
    ),
    "eval_episodes": Option(
        Integer(1, MAX_LENGTH),
        _EVALUATION,
        "Episodes of an evaluation; the last has 20 at least.",
        default=20,
    ),
    "tensorboard": Option(
        Boolean(), _EVALUATION, "Whether to write TensorBoard events.", default=True, resumable=True
    ),
    "keep_checkpoints": Option(
        Integer(1), _RUN, "Newest checkpoints to keep.", default=3, resumable=True
    ),
}
"""Every option by its key in a configuration file, which is also its field of `TrainConfig`."""
