"""A character-level LSTM that predicts a text (the poster's task for variances)."""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from es_rl.elementary import exp, log, tanh
from es_rl.envs.row_arrays import RowArrays, checked, positive_integer
from es_rl.envs.sonnets import SONNETS
from es_rl.option_kinds import Boolean
from es_rl.option_messages import shown
from es_rl.perturbations import split_over_threads
from es_rl.tasks import UnrollResult

__all__ = ["CharLstmTask"]

_INITIAL_EMBEDDING = 0.1


@numba.njit(error_model="numpy", nogil=True)
def _sigmoid(x):  # type: ignore[no-untyped-def]
    return 0.5 + 0.5 * tanh(0.5 * x)


@numba.njit(error_model="numpy", nogil=True)
def _lstm_step(theta, n_chars, units, char, hidden, cell, gates):  # type: ignore[no-untyped-def]
    """Advance `hidden` and `cell` (units,) by one character; return where the decoder begins."""
    begin = n_chars * units
    embedding = theta[char * units : (char + 1) * units]
    for j in range(4 * units):
        by_input = theta[begin + j * units : begin + (j + 1) * units]
        by_hidden = theta[begin + (4 * units + j) * units : begin + (4 * units + j + 1) * units]
        total = theta[begin + 8 * units * units + j]
        for i in range(units):
            total += by_input[i] * embedding[i]
        for i in range(units):
            total += by_hidden[i] * hidden[i]
        gates[j] = total
    for i in range(3 * units):
        gates[i] = _sigmoid(gates[i])
    for i in range(units):
        kept, let_in, let_out = gates[i], gates[units + i], gates[2 * units + i]
        cell[i] = kept * cell[i] + let_in * tanh(gates[3 * units + i])
        hidden[i] = let_out * tanh(cell[i])
    return begin + 8 * units * units + 4 * units


@numba.njit(error_model="numpy", nogil=True)
def _surprise(theta, begin, hidden, target, logits):  # type: ignore[no-untyped-def]
    """Return the cross-entropy of the decoder at `begin` with the next character, in nats."""
    units, n_chars = hidden.size, logits.size
    for k in range(n_chars):
        row = theta[begin + k * units : begin + (k + 1) * units]
        total = theta[begin + n_chars * units + k]
        for i in range(units):
            total += row[i] * hidden[i]
        logits[k] = total
    right, highest = logits[target], logits[0]
    for k in range(1, n_chars):
        highest = logits[k] if logits[k] > highest else highest
    for k in range(n_chars):
        below = logits[k] - highest
        # within the range of exp; a NaN fails the comparison and stays
        logits[k] = exp(-700.0 if below < -700.0 else below)
    mass = 0.0
    for k in range(n_chars):
        mass += logits[k]
    # the logarithm's bit tricks would turn a NaN into a number
    return log(mass) - (right - highest) if mass == mass else np.nan


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _unroll(  # type: ignore[no-untyped-def]
    start, stop, rows, thetas, n_steps, text, n_chars, starts, hiddens, cells, clocks, loss_sum,
    taken,
):  # fmt: skip
    units = hiddens.shape[1]
    gates, logits = np.empty(4 * units), np.empty(n_chars)
    for item in range(start, stop):
        row, theta = rows[item], thetas[item]
        total, count = 0.0, 0
        # the last character has none that follows it
        place = (starts[row] + clocks[row]) % (text.size - 1)
        while count < n_steps[item] and math.isfinite(total):
            begin = _lstm_step(theta, n_chars, units, text[place], hiddens[row], cells[row], gates)
            total += _surprise(theta, begin, hiddens[row], text[place + 1], logits)
            place = place + 1 if place < text.size - 2 else 0
            count += 1
        clocks[row] += count
        loss_sum[item], taken[item] = total, count


class CharLstmTask(RowArrays):
    """Rows of a one-layer LSTM that reads a text; θ holds all of its weights.

    A step reads one character and predicts the next one; its loss is the cross-entropy in nats.
    θ holds, each row-major: the embedding (n_chars, n), the gates' weights by input (4n, n) and
    by hidden state (4n, n), the gates' biases (4n), the decoder's weights (n_chars, n) and its
    biases (n_chars), for n units; the gates are forget, input and output, then the candidate.
    Where the text ends, reading goes on at its beginning. Computed in double precision, the same
    bits on every machine.

    Args:
        text: what to read; None for four sonnets of Shakespeare's. `es_rl.envs.datasets.load_text`
            reads others.
        units: n, size of the embedding and of the LSTM's state.
        horizon: T, characters of an episode.
        fixed_start: every episode begins with the text, as the poster's; False: it begins at a
            place drawn from the episode's seed.
        n_threads: threads that share the rows; None for all usable processors.

    Attributes:
        alphabet: the text's different characters, sorted; their places are their codes.

    Raises:
        ValueError: names the option that is out of range.
    """

    def __init__(
        self,
        text: str | None = None,
        *,
        units: int = 5,
        horizon: int = 1000,
        fixed_start: bool = True,
        n_threads: int | None = None,
    ) -> None:
        text = SONNETS if text is None else text
        if not isinstance(text, str):
            raise ValueError(
                f"text={shown(repr(text))}: must be a str, such as load_text(path) returns"
            )
        self.alphabet = "".join(sorted(set(text)))
        n_chars = len(self.alphabet)
        if n_chars < 2:
            raise ValueError(
                f"text={shown(repr(text))}: must have two different characters at least"
            )
        codes = {character: code for code, character in enumerate(self.alphabet)}
        self._text = np.array([codes[character] for character in text], np.int64)
        self.units = positive_integer("units", units)
        self.fixed_start: bool = checked("fixed_start", Boolean(), fixed_start)
        n = self.units
        super().__init__(
            "char-lstm",
            2 * n_chars * n + 8 * n * n + 4 * n + n_chars,
            horizon,
            n_threads,
            {
                "start": ((), np.int64),
                "hidden": ((n,), np.float64),
                "cell": ((n,), np.float64),
            },
        )

    def initial_theta(self, seed: int = 0) -> NDArray[np.float64]:
        """Return a random start, (d,) float64.

        The embedding is uniform within ±0.1, other weights are normal with deviation 1/√n cut off
        at two deviations, and biases are zero, as in the poster's released code.
        """
        rng = np.random.default_rng(seed)
        n, n_chars = self.units, len(self.alphabet)
        embedding = rng.uniform(-_INITIAL_EMBEDDING, _INITIAL_EMBEDDING, n_chars * n)
        gates = _truncated_normals(rng, 8 * n * n) / math.sqrt(n)
        decoder = _truncated_normals(rng, n_chars * n) / math.sqrt(n)
        return np.concatenate([embedding, gates, np.zeros(4 * n), decoder, np.zeros(n_chars)])

    def reset(self, rows: NDArray[np.int64], seeds: NDArray[np.uint64]) -> None:
        """Start a fresh episode on `rows` (B,), with hidden state and cell zero."""
        n_places = self._text.size - 1
        starts = (seeds >> np.uint64(11)).astype(np.float64) * 2.0**-53 * n_places
        self._rows["start"][rows] = 0 if self.fixed_start else starts.astype(np.int64)
        self._rows["hidden"][rows] = 0.0
        self._rows["cell"][rows] = 0.0
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
        split_over_threads(
            _unroll, rows.size, int(n_steps.sum()) * self.num_params, self.n_threads,
            rows, thetas, n_steps, self._text, len(self.alphabet), self._rows["start"],
            self._rows["hidden"], self._rows["cell"], self._rows["step"], loss_sum, taken,
        )  # fmt: skip
        return UnrollResult(loss_sum, taken, np.zeros(rows.size, np.bool_))


def _truncated_normals(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Return `size` normal variates of magnitude below 2."""
    values = rng.normal(size=2 * size + 100)
    kept: NDArray[np.float64] = values[np.abs(values) < 2.0][:size]
    return kept
