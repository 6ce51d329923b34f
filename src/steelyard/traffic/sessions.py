"""Traffic that waits for its own answers: conversations with a growing context, and workflows of several calls."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.documents import is_file, read_document
from steelyard.errors import InputError, Problem, raise_all, show, suggest
from steelyard.folders import catalogue_folders
from steelyard.traffic.arrivals import MAX_REQUESTS, check_blocks
from steelyard.traffic.lengths import Lengths, parse_lengths
from steelyard.traffic.trace import LENGTHS, Floats, Integers, Trace
from steelyard.units import parse_quantity

__all__ = ["BLOCK_TOKENS", "Call", "common_prefix", "conversations", "read_workflow", "workflows"]

#: Tokens of one hashed block of a conversation's prompt: a multiple of the engines' 16, coarse enough to stay small.
BLOCK_TOKENS = 64
#: Tokens of one hashed block of a prefix that all requests share, and blocks of all of them at most.
PAGE_TOKENS, MAX_SHARED = 16, 4_000_000


def conversations(
    starts: Floats,
    *,
    turns: Lengths,
    prompt: Lengths,
    output: Lengths,
    think_s: float,
    rng: np.random.Generator,
    system_tokens: int = 0,
    block_tokens: int = BLOCK_TOKENS,
) -> Trace:
    """Conversations: each turn sends the whole history and the user's new words, after reading the last answer.

        prompt of turn k = system + sum over j < k of (user_j + output_j) + user_k

    Prompts of one conversation share its history, all share the system prompt; block hashes say so.

    Args:
        starts: ``[sessions]`` s, ascending: when the first turn of each is sent.
        turns: turns per conversation.
        prompt: new tokens of the user per turn.
        output: tokens of each answer.
        think_s: mean of the exponential time between an answer and the next turn, s; 0 = none.
        rng: draws everything.
        system_tokens: prompt shared by all conversations.
        block_tokens: tokens of one hashed block.

    Raises:
        InputError: a negative think time or system prompt, or too many requests.
    """
    problems = []
    if not (math.isfinite(think_s) and think_s >= 0):
        problems.append(Problem("think", f"expected a time of at least 0 s, got {think_s:g}"))
    if system_tokens < 0:
        problems.append(Problem("system", f"expected at least 0 tokens, got {system_tokens}"))
    raise_all(problems)
    count = turns.draw(len(starts), rng)
    n = int(count.sum())
    if n > MAX_REQUESTS:
        raise InputError(f"{n:,} requests; at most {MAX_REQUESTS:,}", field="turns")
    session = np.repeat(np.arange(len(starts)), count)
    first = np.cumsum(count) - count
    turn = np.arange(n) - first[session]
    said, answered = prompt.draw(n, rng), output.draw(n, rng)
    both = np.concatenate([[0], np.cumsum(said + answered)])
    sent = system_tokens + (both[:-1] - both[first[session]]) + said
    later = turn > 0
    delay = np.where(later, rng.exponential(think_s, n) if think_s else 0.0, 0.0)
    hashes, offsets = _history_hashes(session, sent, system_tokens, block_tokens)
    return Trace(
        starts[session],
        sent,
        answered,
        session=session,
        prefix_hashes=hashes,
        prefix_offsets=offsets,
        prefix_block_tokens=block_tokens,
        after=np.flatnonzero(later) - 1,
        after_offsets=np.concatenate([[0], np.cumsum(later)]),
        delay_s=delay,
        sessions_are="conversation",
        name=f"{len(starts):,} conversations",
    )


def _history_hashes(session: Integers, prompt: Integers, system: int, block: int) -> tuple[Integers, Integers]:
    """Hashes of full blocks: block ``b`` is shared by all inside the system prompt, and by one session behind it."""
    full = prompt // block
    check_blocks(float(full.sum(dtype=np.float64)), "turns")
    offsets = np.concatenate([[0], np.cumsum(full)]).astype(np.int64)
    index = np.arange(offsets[-1]) - np.repeat(offsets[:-1], full)
    owner = np.where(index < system // block, -1, np.repeat(session, full)) + 1
    most = int(full.max(initial=0)) + 1
    return owner * most + index, offsets


def common_prefix(requests: int, tokens: int) -> dict[str, Any]:
    """``hashes``, ``offsets`` and ``block_tokens`` of requests whose prompts begin with the same ``tokens`` tokens.

    Blocks are the engines' 16 tokens where that keeps their number small; what does not fill one is not shared.
    """
    block = PAGE_TOKENS
    while requests * (tokens // block) > MAX_SHARED:
        block *= 2
    full = tokens // block
    hashes = np.tile(np.arange(full, dtype=np.int64), requests)
    return {"hashes": hashes, "offsets": np.arange(requests + 1, dtype=np.int64) * full, "block_tokens": block}


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a workflow.

    Args:
        name: unique in the workflow.
        prompt, output: lengths of its own.
        after: calls that must be answered before.
        count: how many of it run at once.
        delay_s: time between its predecessors' answers and the call (a tool, a person), s.
        carry: what its prompt also holds of its predecessors: ``answers``, ``all`` (their whole prompts before these,
            as a conversation or an agent's scratchpad goes on), or empty.
    """

    name: str
    prompt: Lengths
    output: Lengths
    after: tuple[str, ...] = ()
    count: int = 1
    delay_s: float = 0.0
    carry: str = ""


#: What a prompt may hold of its predecessors; ``true`` is the first.
CARRIES = ("answers", "all")
_CARRY = {True: "answers", False: ""}
_FIELDS = ("name", *LENGTHS, "after", "count", "delay", "carry")


def read_workflow(path: str | Path) -> tuple[str, tuple[Call, ...]]:
    """Name and calls of a workflow file (TOML, JSON or YAML) with a list ``call`` in order of dependence.

    Args:
        path: a file, or the name of one in the ``workflows`` folder of a catalogue.

    Raises:
        InputError: every problem, with the path of its field.
    """
    if re.fullmatch(r"[\w-]{1,40}", str(path)) and not is_file(path):
        named = (folder / "workflows" / f"{path}.toml" for folder in catalogue_folders())
        path = next((found for found in named if is_file(found)), path)
    data, file = read_document(path), Path(path).name
    problems = [Problem(f"{file}: {k}", "unknown field") for k in data if k not in ("name", "call")]
    listed = data.get("call")
    if not isinstance(listed, list) or not listed:
        raise InputError("expected at least one [[call]]", field=file)
    calls: list[Call] = []
    for i, raw in enumerate(listed):
        where = f"{file}: call[{i}]"
        if not isinstance(raw, Mapping):
            problems.append(Problem(where, "expected a table"))
            continue
        try:
            calls.append(_call(raw, [c.name for c in calls], where))
        except InputError as error:
            problems += error.problems
    raise_all(problems)
    return str(data.get("name") or Path(path).stem), tuple(calls)


def _call(raw: Mapping[str, Any], known: Sequence[str], where: str) -> Call:
    problems = []
    for key in raw:
        if key not in _FIELDS:
            near = suggest(key, _FIELDS, 1)
            problems.append(
                Problem(f"{where}.{key}", "unknown field" + (f"; did you mean {near[0]!r}?" if near else ""))
            )
    name = raw.get("name")
    if not isinstance(name, str) or not name:
        problems.append(Problem(f"{where}.name", "expected a name"))
    elif name in known:
        problems.append(Problem(f"{where}.name", f"{name!r} is there already"))
    after = raw.get("after", [])
    after = [after] if isinstance(after, str) else after
    if not isinstance(after, list) or not all(isinstance(x, str) for x in after):
        problems.append(Problem(f"{where}.after", "expected a list of names"))
        after = []
    problems += [
        Problem(f"{where}.after", f"{x!r} is not an earlier call; list calls after what they wait for")
        for x in after
        if x not in known
    ]
    count, carry = raw.get("count", 1), raw.get("carry", False)
    if type(count) is not int or not 1 <= count <= 100_000:
        problems.append(Problem(f"{where}.count", f"expected a whole number from 1 to 100,000, got {count!r}"))
    if not isinstance(carry, bool) and carry not in CARRIES:
        words = f"expected answers, all, true (answers) or false, got {show(carry)}"
        problems.append(Problem(f"{where}.carry", words))
        carry = False
    lengths: dict[str, Lengths] = {}
    for key in LENGTHS:
        if key not in raw:
            problems.append(Problem(f"{where}.{key}", "required field is missing"))
            continue
        try:
            lengths[key] = parse_lengths(str(raw[key]), key)
        except InputError as error:
            problems += [Problem(f"{where}.{p.field}", p.message) for p in error.problems]
    delay = 0.0
    try:
        delay = parse_quantity(raw.get("delay", 0.0), "s", f"{where}.delay")
        if not (math.isfinite(delay) and delay >= 0):
            problems.append(Problem(f"{where}.delay", f"expected a time of at least 0 s, got {delay:g}"))
    except InputError as error:
        problems += error.problems
    raise_all(problems)
    prompt, output = (lengths[key] for key in LENGTHS)
    return Call(str(name), prompt, output, tuple(dict.fromkeys(after)), int(count), delay, _CARRY.get(carry, carry))


def workflows(starts: Floats, calls: Sequence[Call], rng: np.random.Generator, name: str = "workflow") -> Trace:
    """Copies of a workflow, one per start; vectorised over copies.

    Args:
        starts: ``[copies]`` s, ascending.
        calls: in order of dependence.
        rng: draws lengths.
        name: of the trace.

    Raises:
        InputError: no calls, or too many requests.
    """
    width = sum(c.count for c in calls)
    copies = len(starts)
    if width == 0 or copies == 0:
        raise InputError("expected at least one call and one start", field="workflow")
    if width * copies > MAX_REQUESTS:
        raise InputError(f"{width * copies:,} requests; at most {MAX_REQUESTS:,}", field="workflow")
    isl, osl = np.empty((copies, width), dtype=np.int64), np.empty((copies, width), dtype=np.int64)
    delay = np.empty(width)
    goes_on = np.full(width, -1)
    where: dict[str, range] = {}
    parents: list[list[int]] = []
    at = 0
    for call in calls:
        own = where[call.name] = range(at, at + call.count)
        before = [i for x in call.after for i in where[x]]
        shape = (copies, call.count)
        isl[:, at : own.stop] = call.prompt.draw(copies * call.count, rng).reshape(shape)
        osl[:, at : own.stop] = call.output.draw(copies * call.count, rng).reshape(shape)
        if call.carry and before:
            isl[:, at : own.stop] += osl[:, before].sum(axis=1, keepdims=True)
            if call.carry == "all":
                isl[:, at : own.stop] += isl[:, before].sum(axis=1, keepdims=True)
                goes_on[at : own.stop] = before[0]
        delay[at : own.stop] = call.delay_s
        parents += [before] * call.count
        at = own.stop
    flat = np.array([i for before in parents for i in before], dtype=np.int64)
    sizes = np.array([len(before) for before in parents])
    after = (np.arange(copies)[:, None] * width + flat[None, :]).reshape(-1)
    shared = _scratchpad_hashes(isl, osl, goes_on) if np.any(goes_on >= 0) else {}
    return Trace(
        np.repeat(starts, width),
        isl.reshape(-1),
        osl.reshape(-1),
        session=np.repeat(np.arange(copies), width),
        after=after,
        after_offsets=np.concatenate([[0], np.cumsum(np.tile(sizes, copies))]),
        delay_s=np.tile(delay, copies),
        sessions_are="workflow",
        **shared,
        name=name,
    )


def _scratchpad_hashes(prompts: Integers, answers: Integers, goes_on: Integers) -> dict[str, Any]:
    """Hashes of prompts that begin with the prompt and the answer of an earlier call, its first predecessor.

    Args:
        prompts, answers: ``[copies, calls]`` tokens.
        goes_on: ``[calls]`` the call whose text each begins with, -1 = none.
    """
    copies, width = prompts.shape
    full = prompts // BLOCK_TOKENS
    check_blocks(float(full.sum(dtype=np.float64)), "workflow")
    offsets = np.concatenate([[0], np.cumsum(full.reshape(-1))]).astype(np.int64)
    request = np.repeat(np.arange(copies * width), full.reshape(-1))
    index = np.arange(offsets[-1]) - offsets[:-1][request]
    # whose text a block is: of the request itself, or back along the calls it goes on from
    text, owner = (prompts + answers).reshape(-1) // BLOCK_TOKENS, request.copy()
    for _ in range(width):
        before = goes_on[owner % width]
        earlier = owner - owner % width + before
        shared = (before >= 0) & (index < text[np.maximum(earlier, 0)])
        if not shared.any():
            break
        owner = np.where(shared, earlier, owner)
    most = int(full.max(initial=0)) + 1
    return {
        "prefix_hashes": owner * most + index,
        "prefix_offsets": offsets,
        "prefix_block_tokens": BLOCK_TOKENS,
    }
