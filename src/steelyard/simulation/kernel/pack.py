"""Many arrays handed to compiled functions as one address.

Every array is seven numbers or more to a compiled function, and :class:`~steelyard.simulation.kernel.state.Fleet`
holds thirty
arrays. ``reference(fleet)`` keeps the tuple where it is and hands on its address; ``reference.name`` reads a field
there, and a tuple inside it is again an address. The referent lives as long as the function that called ``reference``,
and nothing may assign to its fields.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.imputils import lower_getattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import intrinsic, models, register_model

__all__ = ["reference"]


class Reference(types.Type):
    """The address of a named tuple of arrays."""

    def __init__(self, held: Any) -> None:
        self.held = held
        super().__init__(name=f"Reference_{sha256(str(held).encode()).hexdigest()[:16]}")


@register_model(Reference)
class _ReferenceModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, manager.lookup(kind.held).get_value_type().as_pointer())


@infer_getattr
class _Fields(AttributeTemplate):
    key = Reference

    def generic_resolve(self, kind: Any, name: str) -> Any:  # type: ignore[override]
        """The type of a field."""
        if name not in kind.held.fields:
            return None
        found = kind.held.types[kind.held.fields.index(name)]
        return Reference(found) if isinstance(found, types.BaseNamedTuple) else found


@lower_getattr_generic(Reference)  # type: ignore[untyped-decorator]
def _read(context: Any, builder: Any, kind: Any, value: Any, name: str) -> Any:
    """Read a field; it may be kept in a register, since nothing writes to a referent."""
    place = kind.held.fields.index(name)
    pointer = cgutils.gep_inbounds(builder, value, 0, place)
    if isinstance(kind.held.types[place], types.BaseNamedTuple):
        return pointer
    return _load(builder, pointer)


def _load(builder: Any, pointer: Any) -> Any:
    """A value member by member, so that those not needed are not read."""
    kind = pointer.type.pointee
    if isinstance(kind, (ir.LiteralStructType, ir.ArrayType)):
        count = len(kind.elements) if isinstance(kind, ir.LiteralStructType) else kind.count
        whole = ir.Constant(kind, ir.Undefined)
        for k in range(count):
            whole = builder.insert_value(whole, _load(builder, cgutils.gep_inbounds(builder, pointer, 0, k)), k)
        return whole
    found = builder.load(pointer)
    found.set_metadata("invariant.load", builder.module.add_metadata([]))
    return found


def _reference(context: Any, held: Any) -> Any:
    """The address of a named tuple of arrays."""

    def address(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return cgutils.alloca_once_value(builder, arguments[0])

    return Reference(held)(held), address


reference: Any = intrinsic(_reference)
