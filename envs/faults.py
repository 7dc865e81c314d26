"""What is raised when an environment, or the process it lives in, fails."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["EnvironmentFaultError", "NotCopyableError", "NotReproducibleError", "Phase"]


class Phase(IntEnum):
    """What a row was busy with when it failed."""

    IDLE = 0
    MAKING = 1
    RESETTING = 2
    STEPPING = 3
    COPYING = 4
    REPLAYING = 5


_DOING = {
    Phase.IDLE: "between steps",
    Phase.MAKING: "while its environment was made",
    Phase.RESETTING: "in reset",
    Phase.STEPPING: "in step {step} of its episode",
    Phase.COPYING: "while it was copied after step {step} of its episode",
    Phase.REPLAYING: "in step {step} of its replayed episode",
}


class EnvironmentFaultError(RuntimeError):
    """An environment raised, returned something unusable, hung, or took its process down.

    Attributes:
        environment: id of the environment.
        phase: what the row was busy with.
        row: the row; rows 2i and 2i+1 are the plus and the minus row of pair i. Negative if the
            fault belongs to no row.
        step: step of the row's episode, counted from 1; 0 in a reset.
        reason: what happened, in one line.
        details: the traceback inside the environment, or an empty string.
    """

    def __init__(
        self,
        environment: str,
        phase: Phase,
        row: int,
        step: int,
        reason: str,
        details: str = "",
    ) -> None:
        where = ""
        if row >= 0:
            sign = "minus" if row % 2 else "plus"
            doing = _DOING[phase].format(step=step)
            where = f"row {row} ({sign} row of pair {row // 2}), {doing}: "
        message = f"{environment}: {where}{reason}"
        super().__init__(f"{message}\n\n{details}" if details else message)
        self.environment, self.phase, self.row, self.step = environment, phase, row, step
        self.reason, self.details = reason, details

    def __reduce__(self) -> tuple[type[EnvironmentFaultError], tuple[object, ...]]:
        # workers send these to the main process
        return type(self), (
            self.environment,
            self.phase,
            self.row,
            self.step,
            self.reason,
            self.details,
        )


class NotCopyableError(EnvironmentFaultError):
    """The state of an environment cannot be copied exactly, which TES needs."""


class NotReproducibleError(EnvironmentFaultError):
    """Replaying an episode's actions from its seed gave other observations or rewards."""
