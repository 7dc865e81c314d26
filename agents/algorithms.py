"""The algorithms as agents: their arguments and what is particular to each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from es_rl.agents.base import LearningRate
from es_rl.agents.learning import ESAgent
from es_rl.agents.policies import ESPolicy
from es_rl.agents.sources import EnvArgument
from es_rl.estimator_options import DEFAULTS, EstimatorOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["AGENTS", "ARS", "GPES", "NRES", "PES", "TES", "FullES"]


class WindowedES(ESAgent):
    """What the algorithms share that move every pair on by one window an update.

    Args:
        policy: "LinearPolicy", "MlpPolicy", or a subclass of `ESPolicy`.
        env: what to train on: an id; a callable that makes an environment; an environment with a
            spec; a VecEnv of such, or a gymnasium.vector.VectorEnv with a spec. Training unrolls
            copies of its own, so what those would lack, such as a wrapper that changes rewards,
            is refused; a callable may make anything.
        n_pairs: N, antithetic pairs of perturbed copies.
        unroll_length: W, steps of a window, so of an update.
        sigma: σ, standard deviation of the perturbations.
        learning_rate: a positive number, or a function of the progress remaining (1 to 0). What
            suits "sgd" depends on the scale of the rewards; "clipup" with 0.1 is a start anywhere.
        optimizer: "sgd", "momentum", "adam" or "clipup".
        optimizer_kwargs: its options, see `es_rl.optimizers`.
        horizon: T, steps of a training episode; None for the environment's own limit.
        staggering: how the pairs start: "stratified", "iid" or "lockstep".
        init_scale: weights start from a truncated normal of variance init_scale/fan_in; None for
            0 (zeros) with a linear policy and 1 with an MLP.
        engine: "native" (MuJoCo's batch engine), "gymnasium" (worker processes), or "auto" for
            native where that reproduces the environment exactly.
        n_threads: threads or worker processes; None for one per processor; 0 for this process
            alone, with the engine "gymnasium". Results do not depend on it.
        env_kwargs: keyword arguments of an environment given by id or callable.
        policy_kwargs: options of the policy: bias (linear); hidden, activation (MLP);
            clip_actions, squash_actions, normalize_observations, observation_clip (both).
        stats_window_size: finished episodes that logged means are taken over.
        tensorboard_log: folder for TensorBoard; None for none.
        seed: 0 to 2**32 - 1, for everything; None for a random one.
        verbose: 0 for nothing, 1 for the log on the console.
        device: "cpu", or "auto", which means it.
        _init_setup_model: whether to make the policy and the trainer right away.
        options: shaping, top_pairs, reward_offset and the like, see
            `es_rl.estimator_options.EstimatorOptions`.

    Raises:
        ValueError: names the option that is out of range or does not fit the environment.
    """

    estimator_options: ClassVar[tuple[str, ...]] = (
        "n_pairs",
        "unroll_length",
        "sigma",
        "staggering",
        *DEFAULTS,
    )

    def __init__(
        self,
        policy: str | type[ESPolicy],
        env: EnvArgument | None,
        n_pairs: int = 30,
        unroll_length: int = 100,
        sigma: float = 0.1,
        learning_rate: LearningRate = 0.01,
        optimizer: str = "sgd",
        optimizer_kwargs: dict[str, Any] | None = None,
        horizon: int | None = None,
        staggering: str = "stratified",
        init_scale: float | None = None,
        engine: str = "auto",
        n_threads: int | None = None,
        env_kwargs: dict[str, Any] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        seed: int | None = None,
        verbose: int = 0,
        device: torch.device | str = "cpu",
        _init_setup_model: bool = True,
        **options: Unpack[EstimatorOptions],
    ) -> None:
        super().__init__(
            policy,
            env,
            estimator={
                "n_pairs": n_pairs,
                "unroll_length": unroll_length,
                "sigma": sigma,
                "staggering": staggering,
                **DEFAULTS,
                **options,
            },
            learning_rate=learning_rate,
            optimizer=optimizer,
            optimizer_kwargs=optimizer_kwargs,
            horizon=horizon,
            init_scale=init_scale,
            engine=engine,
            n_threads=n_threads,
            env_kwargs=env_kwargs,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            seed=seed,
            verbose=verbose,
            device=device,
            _init_setup_model=_init_setup_model,
        )


class NRES(WindowedES):
    """Noise-reuse evolution strategies: one noise an episode.

    Online, unbiased, and of the least variance among `GPES`.

    Args are those of `WindowedES`.
    """

    algorithm: ClassVar[str] = "nres"


class PES(WindowedES):
    """Persistent evolution strategies: a new noise every window.

    Online and unbiased.

    Args are those of `WindowedES`.
    """

    algorithm: ClassVar[str] = "pes"


class GPES(ESAgent):
    """Generalised persistent evolution strategies: a new noise every K steps, unbiased.

    Args:
        noise_period: K, steps that share one noise, a multiple of W; None for the horizon, which
            makes it `NRES`.
        others: as in `WindowedES`.

    Raises:
        ValueError: names the option that is out of range or does not fit the environment.
    """

    algorithm: ClassVar[str] = "gpes"
    estimator_options: ClassVar[tuple[str, ...]] = (
        "n_pairs",
        "unroll_length",
        "noise_period",
        "sigma",
        "staggering",
        *DEFAULTS,
    )

    def __init__(
        self,
        policy: str | type[ESPolicy],
        env: EnvArgument | None,
        n_pairs: int = 30,
        unroll_length: int = 100,
        noise_period: int | None = None,
        sigma: float = 0.1,
        learning_rate: LearningRate = 0.01,
        optimizer: str = "sgd",
        optimizer_kwargs: dict[str, Any] | None = None,
        horizon: int | None = None,
        staggering: str = "stratified",
        init_scale: float | None = None,
        engine: str = "auto",
        n_threads: int | None = None,
        env_kwargs: dict[str, Any] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        seed: int | None = None,
        verbose: int = 0,
        device: torch.device | str = "cpu",
        _init_setup_model: bool = True,
        **options: Unpack[EstimatorOptions],
    ) -> None:
        super().__init__(
            policy,
            env,
            estimator={
                "n_pairs": n_pairs,
                "unroll_length": unroll_length,
                "noise_period": noise_period,
                "sigma": sigma,
                "staggering": staggering,
                **DEFAULTS,
                **options,
            },
            learning_rate=learning_rate,
            optimizer=optimizer,
            optimizer_kwargs=optimizer_kwargs,
            horizon=horizon,
            init_scale=init_scale,
            engine=engine,
            n_threads=n_threads,
            env_kwargs=env_kwargs,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            seed=seed,
            verbose=verbose,
            device=device,
            _init_setup_model=_init_setup_model,
        )


class TES(WindowedES):
    """Truncated evolution strategies: the past is not perturbed.

    Online, and biased towards short horizons. `n_pairs` workers keep one state each, which is
    unrolled under θ and copied for the pair that is perturbed: three copies, all of them counted.

    Args are those of `WindowedES`.
    """

    algorithm: ClassVar[str] = "tes"
    n_pairs: int

    def _first_recorded_row(self) -> int:
        # the pairs are copies for one window; the states that persist come behind them
        return 2 * self.n_pairs


class FullES(ESAgent):
    """Evolution strategies on whole episodes: unbiased, one update an episode.

    Args are those of `WindowedES`, without `unroll_length` and `staggering`: the window is the
    episode, so the environment must have a time limit, or `horizon` be given.

    Raises:
        ValueError: names the option that is out of range or does not fit the environment.
    """

    algorithm: ClassVar[str] = "fulles"
    estimator_options: ClassVar[tuple[str, ...]] = (
        "n_pairs",
        "sigma",
        *DEFAULTS,
    )

    def __init__(
        self,
        policy: str | type[ESPolicy],
        env: EnvArgument | None,
        n_pairs: int = 3,
        sigma: float = 0.1,
        learning_rate: LearningRate = 0.01,
        optimizer: str = "sgd",
        optimizer_kwargs: dict[str, Any] | None = None,
        horizon: int | None = None,
        init_scale: float | None = None,
        engine: str = "auto",
        n_threads: int | None = None,
        env_kwargs: dict[str, Any] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        seed: int | None = None,
        verbose: int = 0,
        device: torch.device | str = "cpu",
        _init_setup_model: bool = True,
        **options: Unpack[EstimatorOptions],
    ) -> None:
        super().__init__(
            policy,
            env,
            estimator={
                "n_pairs": n_pairs,
                "sigma": sigma,
                **DEFAULTS,
                **options,
            },
            learning_rate=learning_rate,
            optimizer=optimizer,
            optimizer_kwargs=optimizer_kwargs,
            horizon=horizon,
            init_scale=init_scale,
            engine=engine,
            n_threads=n_threads,
            env_kwargs=env_kwargs,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            seed=seed,
            verbose=verbose,
            device=device,
            _init_setup_model=_init_setup_model,
        )


class ARS(FullES):
    """Augmented random search: FullES whose steps are in units of the returns' deviation.

    It has sb3-contrib's ARS's options under this library's names: `n_pairs` for n_delta,
    `top_pairs` for n_top, `sigma` for delta_std, `reward_offset` for minus alive_bonus_offset. Its
    `LinearPolicy` clips actions, as ours does with `policy_kwargs={"clip_actions": True}`.

    Args are those of `FullES`; `shaping` is "returns" unless given.
    """

    algorithm: ClassVar[str] = "ars"

    def __init__(
        self,
        policy: str | type[ESPolicy],
        env: EnvArgument | None,
        n_pairs: int = 8,
        sigma: float = 0.05,
        learning_rate: LearningRate = 0.02,
        **options: Any,
    ) -> None:
        super().__init__(
            policy,
            env,
            n_pairs=n_pairs,
            sigma=sigma,
            learning_rate=learning_rate,
            **{"shaping": "returns", **options},
        )


AGENTS: Mapping[str, type[ESAgent]] = {
    agent.algorithm: agent for agent in (NRES, PES, GPES, TES, FullES, ARS)
}
"""Agents by the names of their estimators."""
