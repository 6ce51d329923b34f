"""Rules as the kernel calls them: compiled on their own, handed over as addresses, so that the kernel never changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from steelyard.cost.jit import compile_rule, compiled_here, njit_inner
from steelyard.errors import InputError
from steelyard.simulation.kernel.rules import MEMORY, NAMES, RuleSet, View
from steelyard.simulation.kernel.state import State, Tech

__all__ = ["Rules", "rule_arrays", "view_of"]


class Rules(NamedTuple):
    """The rules as the kernel calls them: addresses of compiled functions, one member per name of :data:`NAMES`."""

    key: Any
    admit: Any
    victim: Any
    preempt: Any
    step: Any
    account: Any
    guess: Any
    price: Any
    route: Any
    tier: Any


@njit_inner
def view_of(state: State, tech: Tech) -> View:
    """What rules see of a simulation."""
    return View(
        state.requests,
        state.slots,
        state.workers,
        state.replicas,
        state.setups,
        state.data,
        state.layout,
        tech.memory,
        tech.shared,
        tech.params,
    )


def _no_rule(*_arguments: Any) -> int:
    return -1


def _compiled(name: str, function: Callable[..., Any] | None, view: Any) -> Any:
    """An object whose address numba passes on (its wrapper address protocol)."""
    import numba

    types: Any = numba.types
    kinds = {"i": types.int64, "f": types.float64}
    arguments, returned = NAMES[name]
    result = kinds[returned] if len(returned) == 1 else types.UniTuple(types.float64, len(returned))
    signature = result(view, *(kinds[k] for k in arguments))
    address = 1  # of a rule that is not given: never called
    if function is not None:
        try:
            compiled = compile_rule(getattr(function, "py_func", function), signature)
        except Exception as error:
            text = " ".join(str(error).split())[:400]
            raise InputError(f"rule {name!r} cannot be compiled: {text}", field="rules") from error
        made = compiled.overloads[signature.args]
        address = made.library.get_pointer_to_function(made.fndesc.llvm_cfunc_wrapper_name)

    class Address(types.WrapperAddressProtocol):  # type: ignore[misc]
        """See numba's page on first-class function types."""

        def __wrapper_address__(self) -> int:
            return int(address)

        def signature(self) -> Any:
            """Types of arguments and result."""
            return signature

    found = Address()
    found.keep = function and compiled
    return found


def rule_arrays(rules: RuleSet | None, state: State) -> dict[str, Any]:
    """The rules and their arrays, as members of :class:`~steelyard.simulation.kernel.state.Tech`.

    Raises:
        InputError: a rule cannot be compiled.
    """
    given = rules.functions if rules else {}
    memory = np.zeros((len(state.requests) if given else 1, MEMORY))
    if rules and rules.memory is not None:
        first = np.asarray(rules.memory, dtype=np.float64)
        memory[:, : first.shape[1]] = first
    shared = np.zeros(1) if not rules or rules.shared is None else np.array(rules.shared, dtype=np.float64)
    params = np.array(rules.params if rules else (0.0,), dtype=np.float64)
    has = np.array([name in given for name in NAMES], dtype=np.int64)
    if compiled_here():
        import numba
        import numba.experimental.function_type  # registers the type of an address

        s = state
        held = (s.requests, s.slots, s.workers, s.replicas, s.setups, s.data, s.layout, memory, shared, params)
        kind: Any = numba.typeof
        view = kind(View(*held))
        made = Rules(*(_compiled(name, given.get(name), view) for name in NAMES))
    else:
        made = Rules(*(given.get(name, _no_rule) for name in NAMES))
    return {"rules": made, "has_rule": has, "memory": memory, "shared": shared, "params": params}
