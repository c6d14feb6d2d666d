"""A few instructions of the processor that numba has no name for, for use inside kernels.

`bytes_between` looks at 64 bytes at once and gives an answer of one bit each; what LLVM makes of it is one to four
vector instructions on every machine. The others are single instructions: `eight_at` and `put_eight` read and write
eight bytes wherever they lie, `count_ones`, `first_one` and `last_one` look at the bits of a number.

Nothing is checked: the caller sees to it that the bytes are there. Bit k is byte k, as on every little-endian machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

Column = npt.NDArray[np.uint8]

_BIT, _BYTE, _INT64 = ir.IntType(1), ir.IntType(8), ir.IntType(64)
_VECTOR = ir.VectorType(_BYTE, 64)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, at: Any, to: Any) -> Any:
    data = cgutils.create_struct_proxy(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), to.as_pointer())


def _splat(builder: Any, byte: Any) -> Any:
    vector = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), byte, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), 64), [0] * 64)
    return builder.shuffle_vector(vector, ir.Constant(_VECTOR, ir.Undefined), zeros)


def _bytes_between(_: Any, text: Any, at: Any, low: Any, high: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, position, lowest, highest = arguments
        vector = builder.load(_pointer(context, builder, signature.args[0], array, position, _VECTOR), align=1)
        lowest, highest = (builder.trunc(one, _BYTE) for one in (lowest, highest))
        distance = builder.sub(vector, _splat(builder, lowest))
        found = builder.icmp_unsigned("<=", distance, _splat(builder, builder.sub(highest, lowest)))
        return builder.bitcast(found, _INT64)

    return types.uint64(text, types.int64, types.int64, types.int64), build


def _eight_at(_: Any, text: Any, at: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_pointer(context, builder, signature.args[0], arguments[0], arguments[1], _INT64), align=1)

    return types.uint64(text, types.int64), build


def _put_eight(_: Any, text: Any, at: Any, value: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], arguments[0], arguments[1], _INT64)
        builder.store(arguments[2], pointer, align=1)
        return context.get_dummy_value()

    return types.void(text, types.int64, types.uint64), build


def _of_bits(name: str, extra: tuple[Any, ...] = ()) -> Any:
    def typed(_: Any, value: Any) -> Any:
        def build(__: Any, builder: Any, ___: Any, arguments: Any) -> Any:
            kinds = [_INT64, *(one.type for one in extra)]
            function = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(_INT64, kinds), f"llvm.{name}.i64"
            )
            return builder.call(function, [arguments[0], *extra])

        return types.int64(types.uint64), build

    return typed


bytes_between: Callable[[Column, int, int, int], np.uint64] = intrinsic(_bytes_between)
"""Of the bytes `text[at:at + 64]`, which lie between `low` and `high`, both included."""
eight_at: Callable[[Column, int], np.uint64] = intrinsic(_eight_at)
"""The bytes `text[at:at + 8]` as a number, the first one lowest."""
put_eight: Callable[[Column, int, np.uint64], None] = intrinsic(_put_eight)
"""Write eight bytes to `text[at:at + 8]`."""
count_ones: Callable[[np.uint64], int] = intrinsic(_of_bits("ctpop"))
"""Bits that are set."""
first_one: Callable[[np.uint64], int] = intrinsic(_of_bits("cttz", (ir.Constant(_BIT, 0),)))
"""Position of the lowest bit that is set; 64 for none."""
