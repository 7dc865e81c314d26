"""The sum of D·ξ over all pairs, in one order that does not depend on who adds what.

The D·ξ of `BLOCK_PAIRS` consecutive pairs are added one after another, and the blocks' sums in a
binary tree: node j of level k is the sum of blocks j·2^k to (j + 1)·2^k - 1, its left half plus its
right half; a half that lies behind the last block is left out. So whoever holds some run of whole
blocks need not tell their sums one by one: a few nodes, logarithmically many, stand for them.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from es_rl.perturbations import split_over_threads

__all__ = [
    "BLOCK_PAIRS",
    "add_block_sums",
    "node_starts",
    "reduce_blocks",
    "reduce_to_nodes",
    "sum_blocks",
    "sum_nodes",
    "sum_to_nodes",
]

BLOCK_PAIRS = 8
"""Pairs that are summed first. The size and the tree are part of the definition of a result: they
fix the rounding of every gradient."""

_COLUMNS = 8192  # columns summed at a time: they stay in the first-level cache


@numba.njit(error_model="numpy", nogil=True)
def _add_some(item, accumulated, pairs, differences, left, right, sums):  # type: ignore[no-untyped-def]
    """Add D·ξ of one or of eight pairs from `item` on to `sums`; return the next item."""
    pair = pairs[item]
    n0 = accumulated[pair, left:right]
    d0 = differences[item]
    if item + 7 >= pairs.size or pairs[item + 7] != pair + 7 or pair % BLOCK_PAIRS != 0:
        for i in range(right - left):
            sums[i] += d0 * n0[i]
        return item + 1
    # a whole block at a time: the same order of additions with an eighth of the stores
    n1, n2 = accumulated[pair + 1, left:right], accumulated[pair + 2, left:right]
    n3, n4 = accumulated[pair + 3, left:right], accumulated[pair + 4, left:right]
    n5, n6 = accumulated[pair + 5, left:right], accumulated[pair + 6, left:right]
    n7 = accumulated[pair + 7, left:right]
    d1, d2, d3 = differences[item + 1], differences[item + 2], differences[item + 3]
    d4, d5, d6 = differences[item + 4], differences[item + 5], differences[item + 6]
    d7 = differences[item + 7]
    for i in range(right - left):
        low = (((sums[i] + d0 * n0[i]) + d1 * n1[i]) + d2 * n2[i]) + d3 * n3[i]
        sums[i] = (((low + d4 * n4[i]) + d5 * n5[i]) + d6 * n6[i]) + d7 * n7[i]
    return item + 8


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _add_block_sums(start, stop, accumulated, pairs, differences, block_sums):  # type: ignore[no-untyped-def]
    for left in range(start, stop, _COLUMNS):
        right = min(left + _COLUMNS, stop)
        item = 0
        while item < pairs.size:
            sums = block_sums[pairs[item] // BLOCK_PAIRS, left:right]
            item = _add_some(item, accumulated, pairs, differences, left, right, sums)


@numba.njit(error_model="numpy", nogil=True)
def _join(stack, top, block, first_block):  # type: ignore[no-untyped-def]
    """Join the sum of `block`, on top of the stack, with its finished siblings.

    Returns:
        the height of the stack.
    """
    size = 1
    # an odd index is a right half; its left half is on the stack unless it begins before us
    while (block // size) % 2 == 1 and (block // size - 1) * size >= first_block:
        left, right = stack[top - 2], stack[top - 1]
        for i in range(left.size):
            left[i] += right[i]
        top -= 1
        size *= 2
    return top


@numba.njit(error_model="numpy", nogil=True)
def _hand_over(stack, top, scale, left, right, out):  # type: ignore[no-untyped-def]
    """Write the nodes on the stack to columns of `out`, or `scale` times their sum unless it is 0.

    The sum goes from the last node to the first, as the tree does.
    """
    if scale == 0.0:
        for node in range(top):
            out[node, left:right] = stack[node, : right - left]
        return
    for node in range(top - 2, -1, -1):
        for i in range(right - left):
            stack[node, i] += stack[node + 1, i]
    for i in range(right - left):
        out[0, left + i] = scale * stack[0, i]


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _sum_blocks(  # type: ignore[no-untyped-def]
    start, stop, accumulated, pairs, differences, n_blocks, first_block, depth, scale, out
):
    buffer = np.empty((depth, min(_COLUMNS, stop - start)))
    for left in range(start, stop, _COLUMNS):
        right = min(left + _COLUMNS, stop)
        stack = buffer[:, : right - left]
        item, top = 0, 0
        for block in range(n_blocks):
            sums = stack[top]
            sums[:] = 0.0
            while item < pairs.size and pairs[item] // BLOCK_PAIRS == block:
                item = _add_some(item, accumulated, pairs, differences, left, right, sums)
            top = _join(stack, top + 1, first_block + block, first_block)
        _hand_over(stack, top, scale, left, right, out)


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _reduce_blocks(start, stop, block_sums, first_block, depth, scale, out):  # type: ignore[no-untyped-def]
    buffer = np.empty((depth, min(_COLUMNS, stop - start)))
    for left in range(start, stop, _COLUMNS):
        right = min(left + _COLUMNS, stop)
        stack = buffer[:, : right - left]
        top = 0
        for block in range(block_sums.shape[0]):
            stack[top] = block_sums[block, left:right]
            top = _join(stack, top + 1, first_block + block, first_block)
        _hand_over(stack, top, scale, left, right, out)


def add_block_sums(
    accumulated: NDArray[np.float64],
    pairs: NDArray[np.int64],
    differences: NDArray[np.float64],
    block_sums: NDArray[np.float64],
    n_threads: int | None = None,
) -> None:
    """Add each pair's D·ξ to the sum of its block, in the order of `pairs`.

    Args:
        accumulated: (N, d), ξ.
        pairs: (B,), ascending.
        differences: (B,), loss of the plus row minus loss of the minus row, D.
        block_sums: (ceil(N / BLOCK_PAIRS), d), added to.
        n_threads: as in `draw_noise`.
    """
    split_over_threads(
        _add_block_sums, block_sums.shape[1], pairs.size * block_sums.shape[1], n_threads,
        accumulated, pairs, differences, block_sums,
    )  # fmt: skip


def reduce_blocks(
    block_sums: NDArray[np.float64], scale: float, n_threads: int | None = None
) -> NDArray[np.float64]:
    """Return `scale`, which is not 0, times the sum of all block sums (n_blocks, d): (d,)."""
    gradient = np.empty(block_sums.shape[1])
    _reduce(block_sums, 0, scale, gradient[None], n_threads)
    return gradient


def reduce_to_nodes(
    block_sums: NDArray[np.float64], first_block: int, n_threads: int | None = None
) -> NDArray[np.float64]:
    """Return the sums of the nodes that a run of blocks is made of: (n_nodes, d).

    Args:
        block_sums: (n_blocks, d), sums of blocks `first_block` on.
        first_block: where the run begins.
        n_threads: as in `add_block_sums`.
    """
    n_nodes = len(node_starts(first_block, len(block_sums)))
    nodes = np.empty((n_nodes, block_sums.shape[1]))
    _reduce(block_sums, first_block, 0.0, nodes, n_threads)
    return nodes


def _reduce(
    block_sums: NDArray[np.float64],
    first_block: int,
    scale: float,
    out: NDArray[np.float64],
    n_threads: int | None,
) -> None:
    split_over_threads(
        _reduce_blocks, out.shape[1], block_sums.size, n_threads,
        block_sums, first_block, _depth(len(block_sums)), float(scale), out,
    )  # fmt: skip


def sum_blocks(
    accumulated: NDArray[np.float64],
    pairs: NDArray[np.int64],
    differences: NDArray[np.float64],
    scale: float,
    n_threads: int | None = None,
) -> NDArray[np.float64]:
    """Return what `add_block_sums` on zeros and `reduce_blocks` give, in one pass: (d,).

    The same bits with less memory traffic; arguments are those of the two functions.
    """
    gradient = np.empty(accumulated.shape[1])
    _sum(accumulated, pairs, differences, 0, scale, gradient[None], n_threads)
    return gradient


def sum_to_nodes(
    accumulated: NDArray[np.float64],
    pairs: NDArray[np.int64],
    differences: NDArray[np.float64],
    first_block: int,
    n_threads: int | None = None,
) -> NDArray[np.float64]:
    """Return what `add_block_sums` on zeros and `reduce_to_nodes` give, in one pass.

    Arguments are those of the two functions.
    """
    n_nodes = len(node_starts(first_block, _n_blocks(accumulated)))
    nodes = np.empty((n_nodes, accumulated.shape[1]))
    _sum(accumulated, pairs, differences, first_block, 0.0, nodes, n_threads)
    return nodes


def _sum(
    accumulated: NDArray[np.float64],
    pairs: NDArray[np.int64],
    differences: NDArray[np.float64],
    first_block: int,
    scale: float,
    out: NDArray[np.float64],
    n_threads: int | None,
) -> None:
    n_blocks = _n_blocks(accumulated)
    split_over_threads(
        _sum_blocks, out.shape[1], pairs.size * out.shape[1], n_threads,
        accumulated, pairs, differences, n_blocks, first_block, _depth(n_blocks), float(scale), out,
    )  # fmt: skip


def _n_blocks(accumulated: NDArray[np.float64]) -> int:
    return -(-len(accumulated) // BLOCK_PAIRS)


def _depth(n_blocks: int) -> int:
    """Return a height that a run's stack of unfinished nodes never exceeds."""
    return 2 * n_blocks.bit_length() + 1


def node_starts(first_block: int, n_blocks: int) -> list[int]:
    """Return the first block of each of the nodes that a run of blocks is made of, in order.

    They are the largest nodes that fit, so their places follow from the run alone: at most
    2·log2(n_blocks) + 2 of them.
    """
    starts, block, stop = [], first_block, first_block + n_blocks
    while block < stop:
        starts.append(block)
        # the largest power of two that divides the place, and that still fits
        size = block & -block if block else 1 << n_blocks.bit_length()
        while size > stop - block:
            size //= 2
        block += size
    return starts


def sum_nodes(runs: list[tuple[int, NDArray[np.float64]]], scale: float) -> NDArray[np.float64]:
    """Return `scale` times the sum of all blocks, from the nodes of their runs: (d,) float64.

    The bits are those of `reduce_blocks` on the block sums of all runs together.

    Args:
        runs: for each run, in order and without a gap from block 0 on, its number of blocks and
            its nodes (n_nodes, d).
        scale: any number.
    """
    stack: list[tuple[int, int, NDArray[np.float64]]] = []  # first block, size, sum
    first_block = 0
    for n_blocks, nodes in runs:
        stop = first_block + n_blocks
        starts = node_starts(first_block, n_blocks)
        for start, end, value in zip(starts, [*starts[1:], stop], nodes, strict=True):
            node = (start, end - start, value)
            while stack and stack[-1][1] == node[1] and stack[-1][0] % (2 * node[1]) == 0:
                left = stack.pop()
                node = (left[0], 2 * node[1], left[2] + node[2])
            stack.append(node)
        first_block = stop
    total = stack.pop()[2]
    while stack:
        total = stack.pop()[2] + total
    return scale * total
