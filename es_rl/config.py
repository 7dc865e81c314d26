"""The one description of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from es_rl.options import (
    BUDGETS,
    DEFAULT_OBSERVATION_CLIP,
    DEFAULT_SHAPINGS,
    DEFAULT_UNROLL_LENGTH,
    INIT_SCALES,
    OPTIONS,
    RAY_OPTIONS,
    REQUIRED,
    WINDOWED,
    ConfigError,
    check_value,
    flag,
    inapplicable,
    shown,
)
from es_rl.unroll_range import MIN_PAIRS, lengths_in, range_text

__all__ = ["TrainConfig"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All options of one training run, checked; `es_rl.config_layers.resolve` makes it.

    A field that does not apply to the algorithm or the policy is None. The meaning of each is
    the `help` of its entry in `es_rl.options.OPTIONS`.

    Raises:
        ConfigError: names the option that is missing, wrong, or does not apply.
    """

    env: str
    algo: str
    seed: int
    env_kwargs: dict[str, Any]
    import_modules: tuple[str, ...]
    engine: str
    threads: int | None
    workers: int | None
    ray_address: str | None
    worker_timeout: float | None
    step_timeout: float
    updates: int | None
    total_steps: int | None
    sequential_steps: int | None
    max_time: float | None
    stop_at: float | None
    n_pairs: int
    unroll_length: int | None
    noise_period: int | None
    horizon: int | None
    integrator: str | None
    integrator_steps: int | None
    sigma: float
    staggering: str | None
    shaping: str
    top_pairs: int | None
    reward_offset: float
    noise: str
    adapt_sigma: float
    refresh_drift: float | None
    unroll_range: tuple[int, int] | None
    optimizer: str
    learning_rate: float
    momentum: float | None
    weight_decay: float | None
    lr_schedule: str
    starts: int | None
    start_steps: int | None
    start_reward: float | None
    policy: str
    hidden: tuple[int, ...] | None
    activation: str | None
    bias: bool | None
    init_scale: float | None
    clip_actions: bool
    squash_actions: bool
    normalize_observations: bool
    observation_clip: float | None
    eval_every: int
    eval_episodes: int
    tensorboard: bool
    keep_checkpoints: int

    def __post_init__(self) -> None:
        for name in OPTIONS:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, check_value(name, value))
        for name, option in OPTIONS.items():
            reason = inapplicable(name, self.algo, self.policy)
            value = getattr(self, name)
            if reason is not None and value is not None:
                raise ConfigError(f"{flag(name)} {shown(value)}: {reason}")
            if reason is None and value is None and not option.optional:
                raise ConfigError(f"{flag(name)}: missing; {option.help}")
        self._check_together()

    def _check_together(self) -> None:
        """Check what one option alone does not show."""
        if self.unroll_length is not None:
            if self.horizon is not None and self.unroll_length > self.horizon:
                raise ConfigError(
                    f"--unroll-length {self.unroll_length}: longer than the episode, which has "
                    f"{self.horizon} steps; give at most --unroll-length {self.horizon}"
                )
            if self.noise_period is not None and self.noise_period % self.unroll_length:
                below = self.noise_period - self.noise_period % self.unroll_length
                raise ConfigError(
                    f"--noise-period {self.noise_period}: must be a multiple of --unroll-length "
                    f"{self.unroll_length}, such as {max(below, self.unroll_length)}"
                )
        for name in RAY_OPTIONS:
            if self.engine != "ray" and getattr(self, name) is not None:
                raise ConfigError(
                    f"{flag(name)} {shown(getattr(self, name))}: applies to --engine ray alone; "
                    "add that, or leave it out"
                )
        if self.integrator_steps is not None:
            self._check_integrator_steps()
        if self.has_starts or self.start_steps is not None or self.start_reward is not None:
            self._check_starts()
        if self.top_pairs is not None and self.top_pairs > self.n_pairs:
            raise ConfigError(
                f"--top-pairs {self.top_pairs}: there are only {self.n_pairs}; give at most that, "
                "or raise --n-pairs"
            )
        if self.shaping == "returns" and self.algo in WINDOWED:
            raise ConfigError(
                f"--shaping returns: does not apply to --algo {self.algo}, whose pairs stand at "
                "different steps and have no returns to compare; choose std"
            )
        if self.adapt_sigma and self.noise.startswith("orthogonal"):
            raise ConfigError(
                f"--adapt-sigma {self.adapt_sigma:g}: compares pairs whose noises are independent; "
                "give --noise gaussian or fixed-norm"
            )
        if self.adapt_sigma:
            self._check_one_process(f"--adapt-sigma {self.adapt_sigma:g}")
        if self.adapt_sigma and self.n_pairs < 4:
            raise ConfigError(
                f"--adapt-sigma {self.adapt_sigma:g}: needs four pairs at least; raise --n-pairs"
            )
        if self.unroll_range is not None:
            self._check_unroll_range(self.unroll_range)
        if self.squash_actions and self.clip_actions:
            raise ConfigError(
                "--squash-actions: squashed actions are within their bounds; leave out "
                "--clip-actions"
            )
        if self.observation_clip is not None and not self.normalize_observations:
            raise ConfigError(
                f"--observation-clip {self.observation_clip:g}: only normalised observations are "
                "clipped; add --normalize-observations, or leave it out"
            )

    def _check_integrator_steps(self) -> None:
        option = f"--integrator-steps {self.integrator_steps}"
        if self.integrator is None:
            raise ConfigError(
                f"{option}: there is no other integrator to begin with; add --integrator, such as "
                "euler, or leave it out"
            )
        if self.engine in ("gymnasium", "ray"):
            raise ConfigError(
                f"{option}: only the native engine in this process changes it under way; leave out "
                f"--engine {self.engine}, or give --integrator for the whole run"
            )

    def _check_one_process(self, option: str) -> None:
        if self.engine == "ray":
            raise ConfigError(
                f"{option}: needs all pairs in one process; give another --engine, or leave it out"
            )

    def _check_starts(self) -> None:
        if not self.has_starts:
            name = "start_steps" if self.start_steps is not None else "start_reward"
            raise ConfigError(
                f"{flag(name)} {shown(getattr(self, name))}: there is one start alone, which has "
                "all steps; add --starts, such as 4, or leave it out"
            )
        if self.start_steps is None:
            raise ConfigError(
                f"--starts {self.starts}: give --start-steps, the total steps of each before they "
                "are judged"
            )
        self._check_one_process(f"--starts {self.starts}")

    def _check_unroll_range(self, unroll_range: tuple[int, int]) -> None:
        option = f"--unroll-range {range_text(unroll_range)}"
        self._check_one_process(option)
        if self.n_pairs < MIN_PAIRS:
            raise ConfigError(f"{option}: needs {MIN_PAIRS} pairs at least; raise --n-pairs")
        if self.unroll_length is None:
            return
        try:
            lengths_in(unroll_range, self.unroll_length, self.horizon, self.noise_period)
        except ValueError as error:
            raise ConfigError(f"{option}: {error}") from None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Return a config with the given values, and defaults for what they leave open.

        Raises:
            ConfigError: if an option without a default is missing, or one is wrong.
        """
        filled: dict[str, Any] = dict.fromkeys(OPTIONS)
        filled.update(values)
        policy = filled["policy"] = filled["policy"] or OPTIONS["policy"].default
        for name, option in OPTIONS.items():
            if filled[name] is not None or inapplicable(name, filled["algo"], policy) is not None:
                continue
            if name == "init_scale":
                filled[name] = INIT_SCALES.get(policy)
            elif name == "shaping" and filled["algo"] in DEFAULT_SHAPINGS:
                filled[name] = DEFAULT_SHAPINGS[filled["algo"]]
            elif option.default is not REQUIRED:
                filled[name] = option.default
        if filled["normalize_observations"] is True and filled["observation_clip"] is None:
            filled["observation_clip"] = DEFAULT_OBSERVATION_CLIP
        return cls(**filled)

    @property
    def has_budget(self) -> bool:
        """Whether the run ends by itself without reaching a reward."""
        return self.max_time is not None or any(getattr(self, n) is not None for n in BUDGETS)

    @property
    def has_starts(self) -> bool:
        """Whether several trainings begin, of which one goes on."""
        return self.starts is not None and self.starts > 1

    def with_horizon(self, horizon: int | None) -> TrainConfig:
        """Return the config with everything filled in that depends on the task's own horizon.

        Args:
            horizon: the task's; None if it never ends by itself.

        Raises:
            ConfigError: if the window is longer than the episode.
        """
        steps = self.horizon if self.horizon is not None else horizon
        changes: dict[str, Any] = {"horizon": steps}
        if self.algo in WINDOWED and self.unroll_length is None:
            length = min(DEFAULT_UNROLL_LENGTH, steps or DEFAULT_UNROLL_LENGTH)
            changes["unroll_length"] = length
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the applicable options as plain values that YAML and JSON can hold."""
        result = {}
        for name in OPTIONS:
            if inapplicable(name, self.algo, self.policy) is None:
                value = getattr(self, name)
                result[name] = list(value) if isinstance(value, tuple) else value
        return result
