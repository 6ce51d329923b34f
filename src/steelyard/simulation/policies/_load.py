"""From what a user names to a policy: a registered name, a class of the user's own file, or a Python object."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from steelyard.errors import InputError, suggest
from steelyard.registry import Registry
from steelyard.simulation.policies._base import Order, Policy, take_order
from steelyard.traffic.trace import Trace
from steelyard.users_code import file_and_name, run_file, theirs

__all__ = ["POLICIES", "check_policy", "find_policy", "ordered", "registered_policy"]

#: Policies by name.
POLICIES: Registry[type[Policy]] = Registry("policy", "steelyard.policies")


def registered_policy(name: str) -> Policy:
    """A policy by its registered name; no file is run. Raises :class:`UnknownName`."""
    return _made(POLICIES.get(name), name)


def find_policy(given: str | type[Policy] | Policy) -> Policy:
    """A policy by its name, by ``FILE.py:CLASS`` (this runs the file), as a class or as an object.

    Raises:
        InputError: no such name, file or class; the file fails; what is found keeps no contract.
    """
    if not isinstance(given, str):
        return _made(given, getattr(given, "__name__", type(given).__name__))
    file = file_and_name(given, "policy")
    if file is None:
        return _made(POLICIES.get(given), given)
    path, name = file
    module = run_file(path)
    if name not in vars(module):
        classes = [k for k, v in vars(module).items() if isinstance(v, type) and hasattr(v, "keys")]
        near = suggest(name, classes) or classes
        hint = f"; it has {', '.join(near)}" if near else ""
        raise InputError(f"no class {name!r} in {path}{hint}", field="policy")
    return _made(vars(module)[name], name)


def check_policy(given: str) -> None:
    """Refuse a text that names no policy and no file; a file is not run. Raises :class:`InputError`."""
    if file_and_name(given, "policy") is None:
        POLICIES.get(given)


def ordered(
    given: str | type[Policy] | Policy | Order, trace: Trace, slo: Mapping[str, float] = MappingProxyType({})
) -> Order:
    """What a policy says about a trace. Raises :class:`InputError` as :func:`find_policy` and for bad keys."""
    return given if isinstance(given, Order) else take_order(find_policy(given), trace, slo)


def _made(thing: object, what: str) -> Policy:
    if isinstance(thing, type):
        with theirs(f"{what}() failed"):
            thing = thing()
    with theirs(f"the name of {what} failed"):
        name = getattr(thing, "name", None)
        whole = isinstance(thing, Policy) and callable(thing.keys) and isinstance(name, str) and bool(name.strip())
    if not whole:
        raise InputError(f"{what} is no policy: expected a class with a name and keys(trace)", field="policy")
    return thing  # type: ignore[return-value]
