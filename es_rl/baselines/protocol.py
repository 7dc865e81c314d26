"""What a task must offer so that its gradients can be computed instead of sampled."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from es_rl.tasks import UnrolledTask

__all__ = ["DifferentiableTask", "JacobianStep", "LinearizedStep"]

Floats = NDArray[np.float64]


class LinearizedStep(Protocol):
    """One step (s, θ) → (s', loss) that B rows have taken, and its derivatives where they took it.

    s and s' are the rows' differentiable states as flat vectors of length p. All arrays are
    float64; M is any number of directions at once.
    """

    @property
    def loss(self) -> Floats:
        """(B,), the losses of the step."""

    def push(self, state_tangents: Floats, theta_tangents: Floats) -> tuple[Floats, Floats]:
        """Forward mode: carry changes of s (B, M, p) and θ (B, M, d) to s' and the loss.

        Returns:
            the changes of s', (B, M, p), and of the loss, (B, M).
        """

    def pull(self, state_cotangents: Floats, loss_cotangents: Floats) -> tuple[Floats, Floats]:
        """Reverse mode: carry derivatives by s' (B, M, p) and by the loss (B, M) to s and θ.

        Returns:
            the derivatives by s, (B, M, p), and by θ, (B, M, d).
        """


@runtime_checkable
class DifferentiableTask(UnrolledTask, Protocol):
    """An unrolled task without random steps or early ends, whose every step can be linearised.

    Attributes:
        state_size: p, length of a row's differentiable state as a flat vector.
    """

    state_size: int

    def linearize(self, rows: NDArray[np.int64], thetas: Floats) -> LinearizedStep:
        """Take exactly the step that `unroll` takes, on `rows` (B,) under `thetas` (B, d)."""


class JacobianStep:
    """A `LinearizedStep` from Jacobians written by hand.

    Args:
        loss: (B,).
        state_by_state: (B, p, p), ∂s'/∂s.
        state_by_theta: (B, p, d), ∂s'/∂θ.
        loss_by_state: (B, p), the loss by s (not s').
        loss_by_theta: (B, d), the loss by θ at fixed s.
    """

    def __init__(
        self,
        loss: Floats,
        state_by_state: Floats,
        state_by_theta: Floats,
        loss_by_state: Floats,
        loss_by_theta: Floats,
    ) -> None:
        self.loss = loss
        self._state_by_state, self._state_by_theta = state_by_state, state_by_theta
        self._loss_by_state, self._loss_by_theta = loss_by_state, loss_by_theta

    def push(self, state_tangents: Floats, theta_tangents: Floats) -> tuple[Floats, Floats]:
        """Carry changes of s (B, M, p) and θ (B, M, d) to s' (B, M, p) and the loss (B, M)."""
        state = np.einsum("bqp,bmp->bmq", self._state_by_state, state_tangents)
        state += np.einsum("bqd,bmd->bmq", self._state_by_theta, theta_tangents)
        loss = np.einsum("bp,bmp->bm", self._loss_by_state, state_tangents)
        loss += np.einsum("bd,bmd->bm", self._loss_by_theta, theta_tangents)
        return state, loss

    def pull(self, state_cotangents: Floats, loss_cotangents: Floats) -> tuple[Floats, Floats]:
        """Carry derivatives by s' (B, M, p) and loss (B, M) to s (B, M, p) and θ (B, M, d)."""
        state = np.einsum("bqp,bmq->bmp", self._state_by_state, state_cotangents)
        state += loss_cotangents[:, :, None] * self._loss_by_state[:, None, :]
        theta = np.einsum("bqd,bmq->bmd", self._state_by_theta, state_cotangents)
        theta += loss_cotangents[:, :, None] * self._loss_by_theta[:, None, :]
        return state, theta
