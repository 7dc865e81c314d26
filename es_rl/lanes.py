"""Inner products in eight lanes, as vector instructions with a fixed order of additions.

LLVM does not turn eight scalar sums into vectors by itself, and letting it reorder additions
freely would make results depend on the machine. So the vectors are written out: lane k sums the
products at k, k + 8, ... in order, and the lanes are joined in one fixed tree. Machines with
narrower or wider registers compute the same bits.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["LANES", "ROWS", "lane_sums"]

LANES = 8
ROWS = 4
"""Rows that `lane_sums` takes at a time, so that each load of the vector serves four products."""

_DOUBLE = ir.DoubleType()
_VECTOR = ir.VectorType(_DOUBLE, LANES)


@intrinsic
def lane_sums(
    typingctx: Any, weights: Any, start: Any, stride: Any, vector: Any, whole: Any
) -> Any:
    """Return the inner products of ROWS rows with `vector`, over its first `whole` entries.

    Args:
        weights: contiguous float64 array; row r begins at `start + r * stride`.
        start: int64.
        stride: int64.
        vector: contiguous float64 array.
        whole: int64, a multiple of LANES.
    """
    signature = types.UniTuple(types.float64, ROWS)(
        weights, types.int64, types.int64, vector, types.int64
    )

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        base, first, gap, source, end = args
        base = context.make_array(sig.args[0])(context, builder, base).data
        source = context.make_array(sig.args[3])(context, builder, source).data
        integer = first.type
        sums = [
            cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, [0.0] * LANES))
            for _ in range(ROWS)
        ]
        offsets = [builder.add(first, builder.mul(gap, integer(r))) for r in range(ROWS)]

        def load(pointer: Any, index: Any) -> Any:
            place = builder.gep(pointer, [index])
            return builder.load(builder.bitcast(place, _VECTOR.as_pointer()), align=8)

        with cgutils.for_range_slice(builder, integer(0), end, integer(LANES), integer) as (j, _):
            shared = load(source, j)
            for total, offset in zip(sums, offsets, strict=True):
                product = builder.fmul(load(base, builder.add(offset, j)), shared)
                builder.store(builder.fadd(builder.load(total), product), total)

        def joined(vector_value: Any) -> Any:
            lanes = [
                builder.extract_element(vector_value, ir.Constant(ir.IntType(32), k))
                for k in range(LANES)
            ]
            while len(lanes) > 1:
                lanes = [builder.fadd(a, b) for a, b in zip(lanes[::2], lanes[1::2], strict=True)]
            return lanes[0]

        results = [joined(builder.load(total)) for total in sums]
        return context.make_tuple(builder, sig.return_type, results)

    return signature, codegen
