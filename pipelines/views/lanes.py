"""Sixteen float32 side by side, for kernels: vector code that does not depend on what a compiler finds to vectorise.

The loops of a view are short and read and write several arrays, so that the checks for overlapping memory and the
remainders of automatically vectorised loops took two thirds of their time. LLVM cuts sixteen lanes into whatever the
machine has. Pointers go where arrays would: handing an array to another function counts references, a third of the time
of a view. Nothing is checked here: callers keep `index` to `index + 15` inside the array, and the array alive.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic as _intrinsic
from numba.extending import models, register_model

LANES = 16

_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTEGERS = ir.VectorType(ir.IntType(32), LANES)
_HALVES = ir.VectorType(ir.IntType(16), LANES)
_BYTES = ir.VectorType(ir.IntType(8), LANES)
_EIGHT = ir.VectorType(ir.FloatType(), LANES // 2)
_TRIPLE = ir.VectorType(ir.FloatType(), 3 * LANES)


class _Lanes(types.Type):
    def __init__(self) -> None:
        super().__init__(name="Lanes")


@register_model(_Lanes)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Any) -> None:
        super().__init__(manager, lanes, _FLOATS)  # type: ignore[no-untyped-call]  # numba leaves it untyped


_lanes = _Lanes()


def intrinsic(emit: Callable[..., Any]) -> Any:
    """Numba's decorator, whose stubs count the typing context among the arguments of a call."""
    return _intrinsic(emit)


def _place(builder: Any, array: Any, index: Any, vector: ir.VectorType) -> Any:
    return builder.bitcast(builder.gep(array, [index]), vector.as_pointer())


def _loaded(context: Any, builder: Any, array: Any, index: Any, vector: ir.VectorType) -> Any:
    found = builder.load(_place(builder, array, index, vector))
    found.align = vector.element.get_abi_size(context.target_data)
    return found


def _all(value: int) -> ir.Constant:
    return ir.Constant(_INTEGERS, [value] * LANES)


def _widened(builder: Any, halves: Any) -> Any:
    """float16 to float32 by its bits, exact for every value; no machine needs to know float16."""
    wide = builder.zext(halves, _INTEGERS)
    magnitude = builder.shl(builder.and_(wide, _all(0x7FFF)), _all(13))
    exponent = builder.and_(magnitude, _all(0x1F << 23))
    normal = builder.add(magnitude, _all((127 - 15) << 23))
    # infinity and NaN keep the largest exponent; below 2^-14 the leading one is not implied and is taken away again
    special = builder.add(normal, _all((128 - 16) << 23))
    least = ir.Constant(_FLOATS, [2.0**-14] * LANES)
    small = builder.fsub(builder.bitcast(builder.add(normal, _all(1 << 23)), _FLOATS), least)
    bits = builder.select(builder.icmp_unsigned("==", exponent, _all(0x1F << 23)), special, normal)
    bits = builder.select(builder.icmp_unsigned("==", exponent, _all(0)), builder.bitcast(small, _INTEGERS), bits)
    sign = builder.shl(builder.and_(wide, _all(0x8000)), _all(16))
    return builder.bitcast(builder.or_(bits, sign), _FLOATS)


@intrinsic
def pointer(_: Any, array: Any) -> Any:
    """To the first entry of an array in C order."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.make_array(array)(context, builder, arguments[0]).data

    to: Any = types.CPointer
    return to(array.dtype)(array), code


@intrinsic
def load(_: Any, array: Any, index: Any) -> Any:
    """Lanes from an array of float32, or of float16 seen as uint16, `index` counting its entries."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if array.dtype == types.uint16:
            return _widened(builder, _loaded(context, builder, arguments[0], arguments[1], _HALVES))
        return _loaded(context, builder, arguments[0], arguments[1], _FLOATS)

    return _lanes(array, types.intp), code


@intrinsic
def any_bit(_: Any, array: Any, index: Any, last: Any) -> Any:
    """Whether any bit is set in 4 x 16 entries from `index` on, or in 16 from `last` on: False for zeros only."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = _HALVES if array.dtype == types.uint16 else _INTEGERS
        memory, first, last_ = arguments
        found = _loaded(context, builder, memory, last_, vector)
        for number in range(4):
            place = builder.add(first, ir.Constant(first.type, LANES * number))
            found = builder.or_(found, _loaded(context, builder, memory, place, vector))
        whole = ir.IntType(vector.element.width * LANES)
        return builder.icmp_unsigned("!=", builder.bitcast(found, whole), ir.Constant(whole, 0))

    return types.boolean(array, types.intp, types.intp), code


def _picked(builder: Any, first: Any, second: Any, order: list[int]) -> Any:
    return builder.shuffle_vector(first, second, ir.Constant(_INTEGERS, order))


_PAIRS = [lane // 2 + lane % 2 * (LANES // 2) for lane in range(LANES)]


@intrinsic
def load_pairs(_: Any, array: Any, first: Any, second: Any) -> Any:
    """array[first], array[second], array[first + 1], array[second + 1], ... of float32."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        memory, one, other = arguments
        halves = _loaded(context, builder, memory, one, _EIGHT), _loaded(context, builder, memory, other, _EIGHT)
        return _picked(builder, *halves, _PAIRS)

    return _lanes(array, types.intp, types.intp), code


@intrinsic
def load_spaced(_: Any, array: Any, index: Any) -> Any:
    """array[index], 0, array[index + 1], 0, ... of float32."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        found = _loaded(context, builder, arguments[0], arguments[1], _EIGHT)
        return _picked(builder, found, ir.Constant(_EIGHT, [0.0] * (LANES // 2)), _PAIRS)

    return _lanes(array, types.intp), code


def _every_third(first: int) -> Any:
    order = [3 * lane + first for lane in range(LANES)]

    def load_third(_: Any, array: Any, index: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            found = _loaded(context, builder, arguments[0], arguments[1], _TRIPLE)
            return _picked(builder, found, found, order)

        return _lanes(array, types.intp), code

    return intrinsic(load_third)


load_firsts, load_seconds, load_thirds = _every_third(0), _every_third(1), _every_third(2)
"""Of sixteen triples from `index` on: their first entries, their second ones, their third ones."""


def _moved(order: list[int]) -> Any:
    def moved(_: Any, lanes: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _picked(builder, arguments[0], arguments[0], order)

        return _lanes(_lanes), code

    return intrinsic(moved)


_NUMBERS = range(LANES)
shifted = _moved([min(lane + 1, LANES - 1) for lane in _NUMBERS])
"""Lane n + 1 in lane n, the last one in its own."""

spread_x, spread_y, spread_z = (_moved([min(lane // 3 * 3 + c, LANES - 1) for lane in _NUMBERS]) for c in range(3))
"""Of five triples: the first entry of each in all three of its lanes, the second, the third; the last lane is none."""


@intrinsic
def store(_: Any, array: Any, index: Any, lanes: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        to = _place(builder, arguments[0], arguments[1], _FLOATS)
        builder.store(arguments[2], to).align = 4

    return types.void(array, types.intp, _lanes), code


@intrinsic
def store_past(_: Any, array: Any, index: Any, lanes: Any) -> Any:
    """Store to an address that is a multiple of 64 past the caches, which keep what they hold; `settle` when done."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        stored = builder.store(arguments[2], _place(builder, arguments[0], arguments[1], _FLOATS))
        stored.align = 4 * LANES
        stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))

    return types.void(array, types.intp, _lanes), code


@intrinsic
def settle(_: Any) -> Any:
    """Make what was stored past the caches visible to other threads."""
    return types.void(), lambda context, builder, signature, arguments: builder.fence("seq_cst")


@intrinsic
def spread(_: Any, value: Any) -> Any:
    """The same float32 in all lanes."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        one = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), arguments[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(one, one, ir.Constant(_INTEGERS, [0] * LANES))

    return _lanes(types.float32), code


@intrinsic
def subtract(_: Any, a: Any, b: Any) -> Any:
    return _lanes(_lanes, _lanes), lambda context, builder, signature, arguments: builder.fsub(*arguments)


@intrinsic
def multiply(_: Any, a: Any, b: Any) -> Any:
    return _lanes(_lanes, _lanes), lambda context, builder, signature, arguments: builder.fmul(*arguments)


@intrinsic
def multiply_add(_: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once on machines that know how, which makes the bits of views theirs; else twice."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
        return builder.call(builder.module.declare_intrinsic("llvm.fmuladd.v16f32", (), function), arguments)

    return _lanes(_lanes, _lanes, _lanes), code


@intrinsic
def choose(_: Any, shown: Any, index: Any, lanes: Any, others: Any) -> Any:
    """`lanes` where the bytes from `index` on are not zero, `others` where they are."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        found = _loaded(context, builder, arguments[0], arguments[1], _BYTES)
        first = builder.icmp_unsigned("!=", found, ir.Constant(_BYTES, [0] * LANES))
        return builder.select(first, arguments[2], arguments[3])

    return _lanes(shown, types.intp, _lanes, _lanes), code
