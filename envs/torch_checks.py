"""What a `TorchTask` asks of the user's two functions, and how it refuses anything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

    Init = Callable[[torch.Generator], Mapping[str, torch.Tensor]]
    Tensors = dict[str, torch.Tensor]

__all__ = [
    "Layout",
    "call_init",
    "check_step",
    "layout_of",
    "probe_init",
    "refuse_changes",
    "versions",
]

_FLOATS = ("float64", "float32", "float16")
_OTHERS = ("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64", "bool")
_PROBE = 0  # the seed whose start state the others are held to


class Layout(NamedTuple):
    """Names of a state's tensors with their shapes and dtypes."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]

    def check(self, name: str, state: Mapping[str, Any], now: str, before: str) -> None:
        """Hold `state` to this layout.

        Args:
            name: the task's.
            state: to be checked.
            now: says who returned it, in messages.
            before: says whose layout this is.

        Raises:
            TypeError: names the tensor that differs.
        """
        import torch

        if state.keys() != self.shapes.keys():
            raise TypeError(
                f"{name}: {now} returned a state of {sorted(state, key=str)}, {before} one of "
                f"{sorted(self.shapes)}"
            )
        for key, value in state.items():
            shape, dtype = self.shapes[key], self.dtypes[key]
            if not isinstance(value, torch.Tensor) or value.shape != shape or value.dtype != dtype:
                raise TypeError(
                    f"{name}: {now} returned state[{key!r}] as {_kind(value)}, {before} as "
                    f"{dtype} of shape {shape}"
                )


def call_init(name: str, init: Init, seed: int) -> Tensors:
    """Return the start state of `seed`, made of what can be kept and differentiated.

    Raises:
        TypeError: names the tensor that cannot be.
    """
    import torch

    state = init(torch.Generator().manual_seed(seed))
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise TypeError(f"{name}: init must return a dict of tensors, it returned {state!r}")
    for key, value in state.items():
        if value.dtype.is_complex:
            raise TypeError(
                f"{name}: state[{key!r}] is {value.dtype}; complex states are not differentiated: "
                "keep the real and the imaginary part, as torch.view_as_real gives them"
            )
        if (
            value.device.type != "cpu"
            or value.layout != torch.strided
            or str(value.dtype).removeprefix("torch.") not in _FLOATS + _OTHERS
        ):
            raise TypeError(
                f"{name}: state[{key!r}] is {value.dtype} on {value.device}, {value.layout}; "
                "states are dense CPU tensors of a dtype that NumPy has"
            )
    return {key: value.detach() for key, value in state.items()}


def probe_init(name: str, init: Init) -> Tensors:
    """Return a start state, having made sure that its seed alone decides on it.

    Raises:
        TypeError: if `init` does not return what is asked for.
    """
    import torch

    first = {key: value.clone() for key, value in call_init(name, init, _PROBE).items()}
    again = call_init(name, init, _PROBE)
    layout_of(first).check(name, again, "init called again with the same seed", "before")
    for key, value in again.items():
        if not torch.equal(first[key].nan_to_num(), value.nan_to_num()):
            raise TypeError(
                f"{name}: init returned two different state[{key!r}] for the same seed; draw from "
                "its generator, as in torch.randn(3, generator=generator), and keep nothing from "
                "one call to the next"
            )
    return again


def layout_of(state: Tensors) -> Layout:
    """Return the layout of `state`."""
    return Layout(
        {key: tuple(value.shape) for key, value in state.items()},
        {key: value.dtype for key, value in state.items()},
    )


def check_step(name: str, returned: Any, layout: Layout) -> tuple[Tensors, torch.Tensor]:
    """Return the next state and the loss, if that is what `step` returned.

    Raises:
        TypeError: says what it returned instead.
    """
    import torch

    if not isinstance(returned, (tuple, list)) or len(returned) != 2:
        what = _kind(returned)
        if isinstance(returned, (tuple, list)):
            what = f"{len(returned)} values"
        raise TypeError(
            f"{name}: step must return two values, the next state and the loss; it returned {what}"
        )
    new, loss = returned
    if isinstance(new, torch.Tensor) and isinstance(loss, Mapping):
        raise TypeError(
            f"{name}: step returned the loss before the state; it must return (state, loss)"
        )
    if not isinstance(new, Mapping):
        raise TypeError(
            f"{name}: step must return the next state as a dict of tensors, it returned "
            f"{_kind(new)}"
        )
    if not isinstance(loss, torch.Tensor):
        raise TypeError(
            f"{name}: step must return the loss as a floating scalar tensor, it returned "
            f"{_kind(loss)}; a constant c is torch.tensor(c)"
        )
    if loss.ndim or str(loss.dtype).removeprefix("torch.") not in _FLOATS:
        raise TypeError(
            f"{name}: step must return a floating scalar as loss, it returned {_kind(loss)}"
        )
    layout.check(name, new, "step", "init")
    return dict(new), loss


def versions(theta: torch.Tensor, state: Tensors, t: torch.Tensor) -> Sequence[int]:
    """Return counters of how often what `step` is given was written to."""
    return [theta._version, t._version, *[value._version for value in state.values()]]


def refuse_changes(
    name: str, before: Sequence[int], theta: torch.Tensor, state: Tensors, t: torch.Tensor
) -> None:
    """Raise if `step` worked in place on what it was given.

    Rows that wait are computed along with the others, and derivatives are taken where the step
    began: both need those values after the call.

    Raises:
        TypeError: names what was changed.
    """
    after = versions(theta, state, t)
    if after == before:
        return
    names = ["theta", "t", *[f"state[{key!r}]" for key in state]]
    changed = [n for n, old, new in zip(names, before, after, strict=True) if old != new]
    raise TypeError(
        f"{name}: step changed {' and '.join(changed)} in place; compute new tensors instead "
        f"(x * 2 for x.mul_(2), x = x + 1 for x += 1), or work on {changed[0]}.clone()"
    )


def _kind(value: Any) -> str:
    """Say in words what `value` is."""
    import torch

    if value is None:
        return "None"
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
