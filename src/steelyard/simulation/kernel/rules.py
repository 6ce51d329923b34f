"""Rules: small compiled functions by which a policy or a technique takes part in a running simulation.

The kernel is compiled once and calls rules by their address, so a rule costs the compilation of its own few lines and
never that of the kernel. A rule is a plain module-level function (not decorated) that numba can compile; it imports
nothing of ours unless it wants to. Every rule gets a :class:`View` first. What each one gets and returns:

``key(view, request, replica, now) -> float``
    A request joins the waiting queue of a replica (on arrival, after its prompt was computed elsewhere, after a
    preemption). Return its place: the smallest key is admitted first, equal ones in the order they joined.
    Default: the key of the policy's ``keys``.
``admit(view, request, replica, worker, now) -> int``
    The first request of the queue is about to be considered. Return 1 to let the engine admit it if its limits allow,
    0 to hold it, and all behind it, back until the next step; 2 to have ``key`` asked again for its place (its key has
    grown since it joined: where keys only grow, asking when a request comes to the front keeps the whole queue in
    order). Default: 1.
``victim(view, worker, replica, now) -> int``
    KV blocks have run out. Return the slot to preempt, -1 for the engine's own choice. Default: -1.
``preempt(view, worker, replica, now) -> int``
    Asked before each step, again and again until it says -1: a running slot to preempt though blocks have not run out.
    Its cache is lost, or kept on a lower level where the technique ``tiers`` swaps. Default: -1.
``step(view, worker, replica, now) -> int``
    Asked once before each step. Return how many prompt tokens the step may compute at most. The engine's own token
    budget still holds. Default: no further limit.
``account(view, request, prompt_tokens, output_tokens, now) -> int``
    A step has ended in which a request computed so many prompt tokens and wrote so many output tokens. Keep what you
    need in ``view.memory`` or ``view.shared``. The value returned is not used.
``guess(view, worker, replica, decodes, context, most) -> int``
    Speculation only: tokens to guess per decode of the next step, at most ``most``; -1 for the technique's own number.
``price(view, worker, replica, decodes, context, chunks, new, pairs, time_s, energy_j) -> (time_s, energy_j)``
    A step has been priced. Return what it really takes, per device. ``decodes`` requests with ``context`` cached tokens
    together, ``chunks`` prompts with ``new`` tokens and ``pairs`` pairs of query and key. Default: as priced.
``route(view, request, stage, now) -> int``
    Return the replica for a request (``stage`` 0: prompts, 1: outputs), -1 for the router's own choice. A replica that
    is down, or cannot hold the request, is refused and the router chooses. The replica where its prompt was computed,
    for an output, keeps it there; the rule is asked again with every token. Default: -1.
``tier(view, request, replica, tokens, load_s, compute_s) -> int``
    Cached tokens lie on a lower level: return 1 to load them, 0 to compute them again. Default: load when faster.

What a rule may do: read everything in the view; write ``view.memory`` and ``view.shared``. It may write nothing else,
allocate nothing, draw no random numbers and remember nothing outside the view: the same inputs give the same bytes.
All integers are int64, all other numbers float64.

``view.memory`` is ``[request, MEMORY]`` and ``view.shared`` a float64 array of any length (counters per client and the
like); both are zero at the start, or what the owner gave. ``view.params`` are its parameters.

A policy names its rules in an attribute ``rules``, a mapping of name to function (see
:mod:`steelyard.simulation.policies._base`); a technique returns them from ``rules()``. One simulation has one rule of
each name: two owners of the same one are refused with both their names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from steelyard.errors import InputError, Problem, raise_all, suggest

__all__ = ["MEMORY", "NAMES", "RuleSet", "View", "checked_rules", "joined_rules"]

#: Columns of ``view.memory``.
MEMORY = 4

#: Every rule and its arguments after the view: ``i`` an int64, ``f`` a float64; then what it returns.
NAMES: Mapping[str, tuple[str, str]] = {
    "key": ("iif", "f"),
    "admit": ("iiif", "i"),
    "victim": ("iif", "i"),
    "preempt": ("iif", "i"),
    "step": ("iif", "i"),
    "account": ("iiif", "i"),
    "guess": ("iiifi", "i"),
    "price": ("iiififfff", "ff"),
    "route": ("iif", "i"),
    "tier": ("iiiff", "i"),
}


#: Places of the rules in ``Tech.has_rule``.
(
    KEY_RULE,
    ADMIT_RULE,
    VICTIM_RULE,
    PREEMPT_RULE,
    STEP_RULE,
    ACCOUNT_RULE,
    GUESS_RULE,
    PRICE_RULE,
    ROUTE_RULE,
    TIER_RULE,
) = range(len(NAMES))


class View(NamedTuple):
    """What a rule sees; columns are those of :mod:`steelyard.simulation.kernel.state`."""

    requests: Any
    """``[request]`` of REQUEST: ``isl``, ``osl``, ``arrived_at``, ``remaining``, ``first_at``, ``preemptions``, ..."""
    slots: Any
    """``[worker, slot]`` of SLOT: running requests in order of admission, ``workers[worker].count`` of them."""
    workers: Any
    """``[worker]`` of WORKER."""
    replicas: Any
    """``[replica]`` of REPLICA: ``waiting`` (head of the queue, -1 none), ``queued``, ``free`` blocks, ..."""
    setups: Any
    """``[pool]`` of SETUP: the engine's limits; ``replicas[r].pool`` says which."""
    data: Any
    """Prices of steps, for :func:`steelyard.cost.step_eval.step_cost`."""
    layout: Any
    """``[pool, table, 4]``: where they are."""
    memory: Any
    """``[request, MEMORY]``: the rules' own numbers."""
    shared: Any
    """The rules' own numbers of the run."""
    params: Any
    """Their parameters."""


class RuleSet(NamedTuple):
    """The rules of one simulation with their state, before they are compiled."""

    functions: Mapping[str, Callable[..., Any]]
    memory: Any = None
    """``[request, up to MEMORY]`` at the start."""
    shared: Any = None
    params: tuple[float, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.functions)


def checked_rules(rules: Mapping[str, Callable[..., Any]], owner: str) -> Mapping[str, Callable[..., Any]]:
    """The rules, when every name is known and every value a function; raises :class:`InputError` with all problems."""
    problems = []
    for name, rule in rules.items():
        if name not in NAMES:
            near = suggest(name, NAMES, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(NAMES)}"
            problems.append(Problem(owner, f"unknown rule {name!r}{hint}"))
        elif not callable(rule):
            problems.append(Problem(owner, f"rule {name!r}: expected a function, got {type(rule).__name__}"))
    raise_all(problems)
    return rules


def joined_rules(owners: Mapping[str, RuleSet]) -> RuleSet:
    """The rules of several owners as one set.

    Raises:
        InputError: two owners bring the same rule, or both bring numbers of the run.
    """
    merged: dict[str, Callable[..., Any]] = {}
    by: dict[str, str] = {}
    state = RuleSet({})
    for owner, rules in owners.items():
        for name, rule in checked_rules(rules.functions, owner).items():
            if name in by:
                raise InputError(f"{by[name]} and {owner} both bring the rule {name!r}", field=owner)
            merged[name], by[name] = rule, owner
        if rules.memory is not None or rules.shared is not None or rules.params:
            if state[1:] != RuleSet({})[1:]:
                raise InputError(f"{owner}: another policy or technique already keeps numbers of the run", field=owner)
            state = rules
    return state._replace(functions=merged)
