"""Any system written in PyTorch, for one copy, as an unrolled task with derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from es_rl.baselines.protocol import LinearizedStep
from es_rl.envs.row_arrays import RowArrays, positive_integer
from es_rl.envs.torch_checks import (
    call_init,
    check_step,
    layout_of,
    probe_init,
    refuse_changes,
    versions,
)
from es_rl.perturbations import split_over_threads
from es_rl.tasks import UnrollResult

if TYPE_CHECKING:
    import torch

    Init = Callable[[torch.Generator], Mapping[str, torch.Tensor]]
    Step = Callable[
        [torch.Tensor, dict[str, torch.Tensor], torch.Tensor],
        tuple[Mapping[str, torch.Tensor], torch.Tensor],
    ]
    Tensors = dict[str, torch.Tensor]

__all__ = ["TorchTask"]

_STATE = "state/"
_ALWAYS_SPLIT = 1 << 40  # a chunk is work enough for a thread, however small its arrays are


class TorchTask(RowArrays):
    """Rows of a system that the user writes for ONE copy in PyTorch; `torch.func` batches it.

    Example: find the decay rate of an exponential.

        def init(generator):
            return {"x": torch.ones((), dtype=torch.float64)}

        def step(theta, state, t):
            x = state["x"] * torch.exp(-theta[0])
            return {"x": x}, (x - 0.9 ** (t + 1)) ** 2

        task = TorchTask(init, step, num_params=1, horizon=50)

    `step` is traced by `torch.func.vmap`: no `if` on a tensor's value, no `.item()`, no fresh
    random numbers, and nothing that changes θ or the state's tensors in place. What is random
    belongs into the state: draw it in `init`, or keep indices of mini-batches there. Everything
    else follows from these two functions: exact copies, states to resume from, and derivatives in
    both directions for the baselines of `es_rl.baselines`. Rows are unrolled in chunks of
    `chunk_rows`, each in one thread, so that results do not depend on the number of threads.

    Args:
        init: takes a seeded `torch.Generator` and returns the start state, a dict of real CPU
            tensors, of the same names, shapes and dtypes for every seed. The generator is all
            that it may draw from.
        step: takes θ (d,), the state and the step number t (int64, from 0), and returns the next
            state, of the same names, shapes and dtypes, and the loss, a scalar. It must make
            new tensors, or work on a `clone()`: `state["x"].mul_(2)` or `theta += 1` would change
            rows that wait for others. Floating tensors of the state are differentiated, others
            are not.
        num_params: d.
        horizon: T, steps of an episode; None if it never ends.
        theta0: (d,), what `initial_theta` returns; None for zeros.
        dtype: "float64" or "float32", of the θ that `step` gets.
        name: the task's name in messages.
        chunk_rows: rows that are batched together.
        n_threads: threads that share the chunks; None for all usable processors.

    Raises:
        TypeError: if `init` or `step` does not return what is asked for, or `step` works in place;
            what `step` does is seen when it is first called.
        ValueError: names the option that is out of range.
    """

    def __init__(
        self,
        init: Init,
        step: Step,
        *,
        num_params: int,
        horizon: int | None = None,
        theta0: ArrayLike | None = None,
        dtype: str = "float64",
        name: str = "torch-task",
        chunk_rows: int = 256,
        n_threads: int | None = None,
    ) -> None:
        import torch

        num_params = positive_integer("num_params", num_params)
        self.chunk_rows = positive_integer("chunk_rows", chunk_rows)
        if dtype not in ("float64", "float32"):
            raise ValueError(f"dtype={dtype!r}: choose float64 or float32")
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._init, self._step = init, step
        self._theta0 = np.zeros(num_params) if theta0 is None else np.array(theta0, np.float64)
        if self._theta0.shape != (num_params,):
            raise ValueError(
                f"theta0 has shape {self._theta0.shape}, num_params={num_params} asks for "
                f"({num_params},)"
            )
        probe = probe_init(name, init)
        self._layout = layout_of(probe)
        self._float_names = [key for key, value in probe.items() if value.is_floating_point()]
        self._names = list(probe)
        self.state_size = sum(probe[key].numel() for key in self._float_names)
        fields = {_STATE + key: (tuple(v.shape), v.numpy().dtype) for key, v in probe.items()}
        super().__init__(name, num_params, horizon, n_threads, fields)

    def initial_theta(self) -> NDArray[np.float64]:
        """Return θ₀, (d,) float64."""
        return self._theta0.copy()

    def reset(self, rows: NDArray[np.int64], seeds: NDArray[np.uint64]) -> None:
        """Start a fresh episode on `rows` (B,): `init` with a generator of each row's seed."""
        for seed in np.unique(seeds):
            chosen = rows[seeds == seed]
            state = call_init(self.name, self._init, int(seed))
            self._layout.check(self.name, state, f"init with seed {seed}", "with seed 0")
            for key, value in state.items():
                self._rows[_STATE + key][chosen] = value.numpy()
        self._rows["step"][rows] = 0

    def unroll(
        self,
        rows: NDArray[np.int64],
        thetas: NDArray[np.float64],
        n_steps: NDArray[np.int64],
    ) -> UnrollResult:
        """Advance each of `rows` (B,) by `n_steps` (B,) under its own `thetas` (B, d)."""
        self._steps_of(rows)
        loss_sum, taken = np.zeros(rows.size), np.zeros(rows.size, np.int64)
        n_chunks = -(-rows.size // self.chunk_rows)
        with _one_torch_thread():
            split_over_threads(
                self._unroll_chunks, n_chunks, _ALWAYS_SPLIT, self.n_threads,
                rows, thetas, n_steps, loss_sum, taken,
            )  # fmt: skip
        return UnrollResult(loss_sum, taken, np.zeros(rows.size, np.bool_))

    def _unroll_chunks(
        self,
        start: int,
        stop: int,
        rows: NDArray[np.int64],
        thetas: NDArray[np.float64],
        n_steps: NDArray[np.int64],
        loss_sum: NDArray[np.float64],
        taken: NDArray[np.int64],
    ) -> None:
        import torch

        torch.set_num_threads(1)  # of the thread that runs this
        for chunk in range(start, stop):
            part = slice(chunk * self.chunk_rows, (chunk + 1) * self.chunk_rows)
            with torch.no_grad():
                self._unroll_chunk(
                    rows[part], thetas[part], n_steps[part], loss_sum[part], taken[part]
                )

    def _unroll_chunk(
        self,
        rows: NDArray[np.int64],
        thetas: NDArray[np.float64],
        n_steps: NDArray[np.int64],
        loss_sum: NDArray[np.float64],
        taken: NDArray[np.int64],
    ) -> None:
        import torch

        batched = torch.func.vmap(self._checked_step)
        theta = torch.tensor(thetas, dtype=self._dtype)
        state, clocks = self._tensors(rows), torch.from_numpy(self._rows["step"][rows])
        while (going := (taken < n_steps) & np.isfinite(loss_sum)).any():
            # rows that are done are computed along, at a step that they know, and dropped: the
            # batch stays the same, and with it the rounding of every sum
            goes = torch.from_numpy(going)
            t = clocks - torch.logical_not(goes).long()
            before = versions(theta, state, t)
            (floats, loss), others = batched(theta, *self._parted(state), t)
            refuse_changes(self.name, before, theta, state, t)
            for key, value in {**floats, **others}.items():
                chosen = goes.reshape(-1, *[1] * (value.ndim - 1))
                state[key] = torch.where(chosen, value, state[key])
            loss_sum[going] += _to_array(loss)[going]
            taken[going] += 1
            clocks = clocks + goes
        for key, value in state.items():
            self._rows[_STATE + key][rows] = value.numpy()
        self._rows["step"][rows] = clocks.numpy()

    def linearize(self, rows: NDArray[np.int64], thetas: NDArray[np.float64]) -> LinearizedStep:
        """Take one step on `rows` (B,) under `thetas` (B, d) and return it with its derivatives."""
        import torch

        clocks = torch.from_numpy(self._steps_of(rows))
        theta = torch.tensor(thetas, dtype=self._dtype)
        state = self._tensors(rows)
        floats, others = self._parted(state)
        batched = torch.func.vmap(self._checked_step)
        before = versions(theta, state, clocks)

        def function(traced_floats: Tensors, traced_theta: torch.Tensor) -> Any:
            result = batched(traced_theta, traced_floats, others, clocks)
            refuse_changes(self.name, before, theta, state, clocks)
            return result

        with _one_torch_thread():
            try:
                result: Any = torch.func.vjp(function, floats, theta, has_aux=True)
            except RuntimeError:
                # PyTorch refuses most work in place on what it differentiates, and names nothing
                with torch.no_grad():
                    function(floats, theta)
                raise
        (new, loss), pull, new_others = result
        for key, value in {**new, **new_others}.items():
            self._rows[_STATE + key][rows] = value.detach().numpy()
        self._rows["step"][rows] += 1
        return _LinearizedStep(loss.detach(), function, floats, theta, pull)

    def _tensors(self, rows: NDArray[np.int64]) -> Tensors:
        """Return copies of the states of `rows` (B,), each (B, ...)."""
        import torch

        return {key: torch.from_numpy(self._rows[_STATE + key][rows]) for key in self._names}

    def _parted(self, state: Tensors) -> tuple[Tensors, Tensors]:
        """Part a state into what is differentiated and what is not."""
        floats = {key: state[key] for key in self._float_names}
        return floats, {key: value for key, value in state.items() if key not in floats}

    def _checked_step(
        self, theta: torch.Tensor, floats: Tensors, others: Tensors, t: torch.Tensor
    ) -> tuple[tuple[Tensors, torch.Tensor], Tensors]:
        """Call the user's `step` for one copy, and hold it to its promise."""
        returned = self._step(theta, {**floats, **others}, t)
        new, loss = check_step(self.name, returned, self._layout)
        parted = self._parted(new)
        return (parted[0], loss), parted[1]


class _LinearizedStep:
    """An `es_rl.baselines.LinearizedStep` by `torch.func`.

    Args:
        loss: (B,).
        function: (differentiated state, θ) -> ((its next, loss), the rest of the next state).
        floats: the differentiated state where the step was taken.
        theta: (B, d).
        pull: what `torch.func.vjp` returned for `function` there.
    """

    def __init__(
        self,
        loss: torch.Tensor,
        function: Callable[[Tensors, torch.Tensor], Any],
        floats: Tensors,
        theta: torch.Tensor,
        pull: Callable[[Any], Any],
    ) -> None:
        self.loss = _to_array(loss)
        self._loss_dtype = loss.dtype
        self._function, self._floats, self._theta, self._pull = function, floats, theta, pull

    def push(
        self, state_tangents: NDArray[np.float64], theta_tangents: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Carry changes of s (B, M, p) and θ (B, M, d) to s' (B, M, p) and the loss (B, M)."""
        import torch

        def one_direction(state: Tensors, theta: torch.Tensor) -> Any:
            at, along = (self._floats, self._theta), (state, theta)
            return torch.func.jvp(self._function, at, along, has_aux=True)[1]

        along_theta = torch.tensor(theta_tangents, dtype=self._theta.dtype)
        with _one_torch_thread():
            # what does not depend on the tangents gets its M here only if that comes first
            state, loss = torch.func.vmap(one_direction, in_dims=1)(
                self._unflatten(state_tangents), along_theta
            )
        return self._flatten(state, theta_tangents.shape[:2]), _to_array(loss.movedim(0, 1))

    def pull(
        self, state_cotangents: NDArray[np.float64], loss_cotangents: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Carry derivatives by s' (B, M, p) and loss (B, M) to s (B, M, p) and θ (B, M, d)."""
        import torch

        loss = torch.tensor(loss_cotangents, dtype=self._loss_dtype)
        with _one_torch_thread():
            state, theta = torch.func.vmap(self._pull, in_dims=1)(
                (self._unflatten(state_cotangents), loss)
            )
        return self._flatten(state, loss_cotangents.shape), _to_array(theta.movedim(0, 1))

    def _unflatten(self, flat: NDArray[np.float64]) -> Tensors:
        """Cut (B, M, p) into tensors (B, M, ...) of the state's shapes and dtypes."""
        import torch

        tensors, begin = {}, 0
        for key, value in self._floats.items():
            size = value[0].numel()
            part = torch.tensor(flat[:, :, begin : begin + size], dtype=value.dtype)
            tensors[key] = part.reshape(*flat.shape[:2], *value.shape[1:])
            begin += size
        return tensors

    def _flatten(self, state: Tensors, leading: tuple[int, ...]) -> NDArray[np.float64]:
        """Join tensors (M, B, ...) to (B, M, p), where `leading` is (B, M)."""
        parts = [_to_array(state[key].movedim(0, 1)).reshape(*leading, -1) for key in self._floats]
        return np.concatenate(parts, axis=2) if parts else np.zeros((*leading, 0))


def _to_array(tensor: torch.Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = tensor.detach().numpy().astype(np.float64)
    return array


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Keep PyTorch from splitting sums over threads, which would change their bits."""
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
