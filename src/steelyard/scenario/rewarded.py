"""Steps of reinforcement learning and of preferences: which answers are drawn, who draws them, what scores them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard.deployment.packing import Packing, packing_of_lengths
from steelyard.deployment.train_plan import OF_REWARDED, REWARDED, divisors
from steelyard.errors import InputError, Problem, show
from steelyard.machine.cluster import Cluster
from steelyard.scenario.fields import fields_of
from steelyard.scenario.scenario import read_cluster, read_model
from steelyard.scenario.words import Problems
from steelyard.techniques._base import relabelled
from steelyard.traffic.lengths import parse_lengths
from steelyard.units import parse_quantity
from steelyard.workload.model import Model

__all__ = ["Answers", "RewardedStep", "drawn_answers", "read_rewarded", "sequences_of_step"]

#: Of them what is of answers that are drawn.
_DRAWN = ("rollout_on", "rollout_tp", "rollout_engine", "stale", "reward")
_PROMPTS, _ISL, _OSL = 128, "512", "lognormal:1024,max=8192"
_GROUP = {"grpo": 8, "ppo": 1, "dpo": 2}
#: Tokens of a micro-batch's sequence, into which answers are packed, at least; and what it is a multiple of.
_SEQ, _ROUND = 8192, 1024


@dataclass(frozen=True, eq=False, slots=True)
class Answers:
    """What a step learns from: ``group`` answers to each prompt, tokens."""

    isl: NDArray[np.int64]
    """``[prompts]``."""
    osl: NDArray[np.int64]
    """``[prompts, group]``."""
    words: Mapping[str, Any]
    """As they were asked for."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """``[prompts * group]`` tokens of prompt and answer."""
        return np.asarray(self.isl[:, None] + self.osl, dtype=np.int64).reshape(-1)

    @property
    def tokens(self) -> float:
        """That training passes over once."""
        return float(self.lengths.sum(dtype=np.float64))

    def packing(self) -> Packing:
        """Of the answers in sequences."""
        return packing_of_lengths(self.lengths, "prompts and answers")


@dataclass(frozen=True, eq=False, slots=True)
class RewardedStep:
    """How a step gets its answers and what scores them."""

    task: str
    answers: Answers
    updates: int
    """Of the weights in a step: passes times the parts that it is learnt in."""
    rollout_on: Cluster | None
    """Devices that answer; None: those that train, in turns."""
    rollout_tp: int | None
    engine: str
    stale: int
    reward: Model | float
    """A model that scores, or a time in s."""
    reference: bool
    passes: int

    @property
    def draws(self) -> bool:
        """Whether answers are drawn in the step."""
        return self.task != "dpo"

    @property
    def critics(self) -> int:
        """Models of the same size that are trained beside it."""
        return 1 if self.task == "ppo" else 0


def drawn_answers(values: Mapping[str, Any]) -> Answers:
    """The answers of a step, drawn once for rollouts and for training. Raises :class:`InputError`."""
    task = values["task"]
    prompts = values["prompts"] or _PROMPTS
    group = values["group"] or _GROUP[task]
    words = {"prompts": prompts, "group": group, "isl": values["isl"] or _ISL, "osl": values["osl"] or _OSL}
    if prompts * group > 1_000_000:
        raise InputError(f"{prompts:,} prompts of {group:,} answers are more than 1,000,000", field="prompts")
    if task == "grpo" and group < 2:
        raise InputError("grpo compares answers to a prompt: at least 2, nearest task with one is ppo", field="group")
    if task == "dpo" and group != 2:
        raise InputError(f"dpo learns from pairs: expected 2, got {group}", field="group")
    rng = np.random.default_rng(values["seed"])
    isl = parse_lengths(words["isl"], "isl").draw(prompts, rng)
    osl = parse_lengths(words["osl"], "osl").draw(prompts * group, rng).reshape(prompts, group)
    return Answers(isl, osl, words)


def read_rewarded(
    values: Mapping[str, Any], cluster: Cluster | None, sequences: int | None, problems: Problems
) -> RewardedStep | None:
    """How a step gets its answers; None where the task learns from none. Problems are added.

    Args:
        values: every field of ``train``.
        cluster: devices that train; None: they were not understood.
        sequences: ``gbs``, the answers of an update; None: all of a step.
        problems: what is wrong is added here.
    """
    known, task = fields_of("train"), values["task"]
    said = [n for n in OF_REWARDED if values.get(n, known[n].default) not in (None, "", known[n].default)]
    if task not in REWARDED:
        tasks = ", ".join(REWARDED)
        problems.add(
            [Problem(n, f"of tasks that learn from scored answers ({tasks}); got --task {task}") for n in said]
        )
        return None
    if task == "dpo":
        problems.add([Problem(n, "dpo learns from answers that are there") for n in said if n in _DRAWN])
    if values["docs"]:
        problems.add([Problem("docs", f"{task} packs prompts and answers: give --isl and --osl")])
    answers = problems.read(drawn_answers, values)
    place = problems.read(_place, values["rollout_on"]) if values["rollout_on"] else None
    reward = problems.read(_reward, values["reward"], values["generic"])
    if values["stale"] and not values["rollout_on"]:
        message = "devices that answer while others train have to be named: give --rollout-on"
        problems.add([Problem("stale", message)])
    if place is not None and place.unlike:
        problems.add([Problem("rollout_on", "expected devices of one kind")])
    degree = values["rollout_tp"]
    answering, said_as = (place, "--rollout-on") if values["rollout_on"] else (cluster, "--on")
    if degree and answering is not None and answering.count % degree:
        near = divisors(answering.count, degree)[-1]
        message = f"{degree} does not divide the {answering.count} devices of {said_as}; nearest is {near}"
        problems.add([Problem("rollout_tp", message)])
    updates = values["passes"]
    if answers is not None and sequences is not None:
        whole = answers.osl.size
        if whole % sequences:
            near = divisors(whole, sequences)[-1]
            message = f"{sequences} answers of an update do not divide the {whole} of a step; nearest is {near}"
            problems.add([Problem("gbs", message)])
        updates *= max(1, whole // sequences)
    if answers is None or reward is None:
        return None
    frozen = values["reference"] == "frozen"
    engine, stale = values["rollout_engine"], values["stale"]
    return RewardedStep(task, answers, updates, place, degree, engine, stale, reward, frozen, values["passes"])


def _place(on: Any) -> Cluster:
    """The devices that answer. Raises :class:`InputError`."""
    try:
        return read_cluster(on)
    except InputError as error:
        raise relabelled(error, "on", "rollout_on") from None


def _reward(given: Any, generic: bool) -> Model | float:
    """Seconds, or a model. Raises :class:`InputError`."""
    text = str(given or "").strip()
    if not text:
        return 0.0
    if text[0].isdigit():
        try:
            found = parse_quantity(text, "s")
        except InputError:
            raise InputError(f"expected a time such as 2s, or a model, got {show(text)}", field="reward") from None
        if not 0 <= found < 1e9:
            raise InputError(f"expected a time of 0 s or more, got {show(text)}", field="reward")
        return found
    try:
        return read_model(text, generic)
    except InputError as error:
        raise InputError(error.problems[0].message, field="reward") from None


def sequences_of_step(step: RewardedStep, given: Mapping[str, Any], devices: int) -> tuple[int, int]:
    """``(gbs, seq)`` of an update: its answers packed into sequences, as many as replicas can share out.

    Args:
        step: with its answers.
        given: what of ``seq``, ``cp``, ``dp`` and ``mbs`` was given.
        devices: that train.

    Raises:
        InputError: an answer is longer than the sequence that was given.
    """
    longest, cp = int(step.answers.lengths.max()), given.get("cp") or 1
    seq = given.get("seq")
    if seq is None:
        round_to = lcm(_ROUND, 2 * cp)
        seq = max(ceil(_SEQ / round_to), ceil(longest / round_to)) * round_to
    elif seq < longest:
        message = f"the longest prompt with its answer has {longest:,} tokens; give --seq {longest} or --osl ...,max="
        raise InputError(message, field="seq")
    tokens = step.answers.tokens * step.passes / step.updates
    need = max(1, ceil(tokens / seq))
    share = min(devices, 1 << (need.bit_length() - 1)) if need < devices else devices
    unit = lcm(share, (given.get("dp") or 1) * (given.get("mbs") or 1))
    gbs = ceil(need / unit) * unit
    if given.get("seq") is None:  # all share the tokens evenly
        seq = min(seq, ceil(max(longest, tokens / gbs) / (64 * cp)) * 64 * cp)
    return gbs, seq
