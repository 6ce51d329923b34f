"""Speculative decoding: who guesses, what guessing and verifying cost, how many guesses are right, how many to make.

A step guesses ``k`` tokens per sequence and verifies them with the model in one pass of ``k + 1`` tokens (a tree: all
its nodes and the root). Guess ``j`` counts only when all before it were right, each with probability ``a``:

    P(at least j right) = a^j        tokens of a step = right + 1,   expected (1 - a^(k+1)) / (1 - a)

(Leviathan et al., arXiv:2211.17192, equation 1). A tree of width ``w`` offers ``w`` guesses per position; one of them
is right with ``1 - (1 - a) w^-b``, the power law of rejections of Sequoia (arXiv:2402.12374).
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from steelyard.cost.step import StepFigures
from steelyard.cost.step_table import TABLES
from steelyard.deployment.plan import DEGREES
from steelyard.errors import InputError, Problem
from steelyard.techniques._base import Citation, PoolFit, Technique
from steelyard.techniques.guessed_batch import Guessing, answering
from steelyard.techniques.guessers import Wanted, draft_of, read_devices, with_draft
from steelyard.techniques.sparsity import with_layers
from steelyard.units import Quantity, figure
from steelyard.workload.shapes import Shapes

__all__ = ["GUESSERS", "Speculation"]

#: Width exponent of a tree's rejections (Sequoia's figures fall between 0.4 and 0.7; a guess in the middle).
TREE_EXPONENT = 0.5
#: Guesses per step at most.
MOST_GUESSES = 16
#: Tokens of a tree at most.
MOST_NODES = 256


def length_of(accept: float, guesses: int) -> float:
    """Expected tokens of a step, the one after the guesses among them: ``(1 - a^(k+1)) / (1 - a)`` of k guesses."""
    return guesses + 1.0 if accept == 1.0 else (1.0 - accept ** (guesses + 1)) / (1.0 - accept)


def rate_of(length: float, guesses: int) -> float:
    """The probability that a guess is right, given those before it, at which a step gives so many tokens."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if length_of(middle, guesses) < length else (low, middle)
    return high


def rates_of(curve: str) -> tuple[float, ...]:
    """The numbers of a curve. Raises :class:`ValueError`."""
    return tuple(float(part) for part in curve.split("+"))


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a method does when nothing else is said.

    Acceptance depends on the text and the pair of models far more than on the method; measure it (an engine logs it)
    and give ``accept``.
    """

    tokens: int
    accept: float
    source: str


@dataclass(frozen=True)
class Speculation(Technique):
    """How tokens are guessed; one class per method."""

    layer: ClassVar[str] = "decoding"
    effect: ClassVar[str] = "several tokens per step: guesses cost time, those that are right come out together"
    serving: ClassVar[bool] = True
    in_batch: ClassVar[bool] = True
    in_steps: ClassVar[bool] = True
    slot: ClassVar[str] = "speculation"
    unplanned: ClassVar[str] = "it needs a checkpoint of heads to be launched"
    roles: ClassVar[tuple[str, ...]] = ("both", "decode")
    keys: ClassVar[Mapping[str, str]] = {"k": "tokens"}
    usual: ClassVar[Defaults]
    also: ClassVar[tuple[str, ...]] = ()
    """Other names people give it."""
    passes: ClassVar[int] = 1
    """How guesses are made: 1 one pass of the draft per token, 2 one pass for all, 3 free."""
    turns: ClassVar[int] = 1
    """Of :attr:`~steelyard.deployment.engine.Engine.verify_s` in a step."""

    tokens: Annotated[
        int | None,
        Quantity("1", "guesses per step along the longest path (default: as published)", ge=1, le=MOST_GUESSES),
    ] = None
    accept: Annotated[
        float | None,
        Quantity("1", "probability that a guess is right, given those before it (default: as published)", ge=0, le=1),
    ] = None
    length: Annotated[
        float | None,
        Quantity("1", "tokens of a step on average, as engines log it (acceptance length), instead of accept", ge=1),
    ] = None
    curve: Annotated[
        str,
        "probability of each position's guess given those before it, 0.8+0.7+0.6, instead of accept; of a tree "
        "that one of the position's guesses is right",
    ] = ""
    realign_s: Annotated[
        float,
        Quantity("s", "host time of a verifying step, to bring sequences of unlike lengths together", ge=0, le=10),
    ] = 0.0
    adaptive: Annotated[
        bool, "0 to k guesses per step, those with the most expected tokens per second (SmartSpec, arXiv:2406.14066)"
    ] = False

    @classmethod
    def from_flag(cls, text: str, label: str) -> Speculation | None:
        """Read ``eagle:k=4,adaptive``; ``adaptive:eagle:k=4`` is the same, ``adaptive`` alone means ``ngram``."""
        body, adaptive = text.strip(), ""
        if body.lower().startswith("adaptive"):
            body, adaptive = body[len("adaptive") :].lstrip(":,") or "ngram", ",adaptive"
        head, _, rest = body.partition(":")
        head, _, more = head.partition(",")
        known = head.strip().lower() in (cls.name, *cls.also)
        return cls.read(",".join((more, rest)) + adaptive, label) if known else None

    def problems(self) -> list[Problem]:
        """A length no chain of so many guesses has, or a rate beside it."""
        if self.curve:
            return self._curve_problems()
        if self.length is None:
            return []
        if self.accept is not None:
            return [Problem(self.name, "expected accept or length, not both: each follows from the other")]
        if self.length > self.guesses + 1:
            most = f"{self.guesses} guesses and the token after them give {self.guesses + 1} at most"
            return [Problem(self.name, f"{most}, got length={self.length:g}")]
        return []

    def _curve_problems(self) -> list[Problem]:
        """Positions that cannot be read, or another way to say the same beside them."""
        if self.accept is not None or self.length is not None:
            return [Problem(self.name, "expected one of accept, length and curve: each follows from the others")]
        try:
            rates = rates_of(self.curve)
        except ValueError:
            rates = ()
        if rates and all(0 <= rate <= 1 for rate in rates) and len(rates) <= MOST_GUESSES:
            return []
        text = f"expected curve as 1 to {MOST_GUESSES} numbers from 0 to 1 joined by +, got {self.curve!r:.80}"
        return [Problem(self.name, text)]

    def words(self, verb: str) -> Mapping[str, Any]:
        """The planner weighs it as one of the ways it may use."""
        return {"speculate": str(self)} if verb == "plan" else {}

    @property
    def guesser(self) -> str:
        """Who guesses: the method, or what a tree is guessed by."""
        return self.mechanism or self.name

    @property
    def wanted(self) -> Wanted:
        """Who guesses, as it is built."""
        return Wanted(self.guesser, self.guesses)

    @property
    def guesses(self) -> int:
        """Guesses per step along the longest path."""
        usual = len(rates_of(self.curve)) if self.curve else self.usual.tokens
        return usual if self.tokens is None else self.tokens

    @property
    def likely(self) -> float:
        """Probability that a guess is right, given that those before it are."""
        return self.usual.accept if self.accept is None else self.accept

    @property
    def verified(self) -> int:
        """Tokens verified beside the last known one."""
        return self.guesses

    @property
    def right(self) -> float:
        """Probability that one of the guesses of a position is right; of a curve that with as many tokens a step."""
        if self.curve:
            return rate_of(self.expected(self.guesses), self.guesses)
        return self.likely if self.length is None else rate_of(self.length, self.guesses)

    @property
    def queries(self) -> tuple[int, int]:
        """Fewest (above 1) and most tokens per sequence of a verifying step."""
        most = self.verified + 1
        return (2, most) if self.adaptive else (most, most)

    def expected(self, guesses: int) -> float:
        """Expected tokens of a step with so many guesses; beyond a curve as its last position."""
        if not self.curve:
            return length_of(self.right, guesses)
        rates = rates_of(self.curve)
        rates += rates[-1:] * max(0, guesses - len(rates))
        return 1.0 + math.fsum(itertools.accumulate(rates[:guesses], operator.mul))

    def record(self, record: Any, tables: bool) -> None:
        """Write it into a record of :data:`~steelyard.simulation.kernel.methods.METHOD`.

        Args:
            record: of a pool.
            tables: whether the guesser's tables stand behind the model's.
        """
        record["plain"] = 0
        record["guess"] = GUESSERS[self.guesser].passes
        record["fewest"] = 0 if self.adaptive else self.guesses
        record["most"] = self.guesses
        record["nodes"] = self.verified if isinstance(self, Tree) else 0
        record["draft_row"] = TABLES if tables else 0
        record["reads_prompts"] = int(self.guesser in ("draft", "eagle", "eagle3", "dflash", "mtp"))
        record["block"] = self.wanted.block
        record["log_accept"] = math.log(self.right) if self.right > 0 else -math.inf

    def fit(self, pool: PoolFit) -> None:
        """The guesser's tables behind the model's, its memory, how many guesses are right."""
        if pool.config.rules.static:
            raise InputError("a static batch writes one token per step and sequence", field="speculate")
        r = pool.replica
        draft = draft_of(self.wanted, r.model, r.plan)
        tables = with_draft(pool.table, draft, r.cluster, r.engine, pool.config, max_context=pool.max_context)
        pool.table = replace(pool.table, tables=tables)
        self.record(pool.record, draft is not None)
        pool.record["verify_s"] = r.engine.verify_s * self.turns + self.realign_s
        if draft is not None:
            pool.device_bytes += draft.weight_bytes
            pool.token_bytes += draft.kv_bytes_per_token
            pool.notes.append(f"guesses by a {draft.note}")
        if self.accept is None and self.length is None and not self.curve:
            pool.guesses["speculation accept"] = f"{self.likely:g} per token: {GUESSERS[self.guesser].usual.source}"
        count = f"0 to {self.guesses}" if self.adaptive else f"{self.guesses}"
        pool.notes.append(
            f"speculation: {count} guesses per step, each right with probability {self.right:.4g} given those before it"
        )

    def scenario(self, scenario: Any) -> Any:
        """What a static batch says of it."""
        if scenario.verb != "estimate":
            return scenario
        source = "" if self.accept is not None or self.length or self.curve else f" ({self.usual.source})"
        many = f"0 to {self.guesses}" if self.adaptive else f"{self.guesses}"
        note = f"{self.name}: {many} guesses a step, {self.expected(self.guesses):.3g} tokens{source}; time per token"
        return with_layers(scenario, scenario.transformer.layers, note)

    def applies(self, scenario: Any) -> list[Problem]:
        """A static batch of what does not decode."""
        if scenario.verb != "estimate" or (scenario.transformer.causal and isinstance(scenario.transformer, Shapes)):
            return []
        return [Problem(self.name, f"{scenario.transformer.name} does not decode token by token")]

    @property
    def per_token(self) -> bool:
        """Steps give several."""
        return True

    def answering(self, scenario: Any, batch: Any, context: Any, step: StepFigures) -> StepFigures:
        """A verifying step and its guesses, per token."""
        replica = scenario.replica
        ways = range(0 if self.adaptive else self.guesses, self.guesses + 1)
        how = Guessing(
            draft_of(self.wanted, replica.model, replica.plan),
            GUESSERS[self.guesser].passes,
            {guesses: self.expected(guesses) for guesses in ways},
            self.verified if isinstance(self, Tree) else 0,
            replica.engine.verify_s * self.turns + self.realign_s,
        )
        return answering(replica, how, batch, context, step)

    def batch_bytes(self, scenario: Any, batch: Any, context: Any) -> Any:
        """Weights and cache of the guesser."""
        draft = draft_of(self.wanted, scenario.transformer, scenario.plan)
        return 0.0 if draft is None else draft.weight_bytes + draft.kv_bytes_per_token * batch * context

    def report(self, counts: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        """How many guesses were right."""
        if not counts["guessed_tokens"]:
            yield "speculation", "no guess made: none pays at this load"
            return
        text = f"{counts['accepted_frac']:.0%} of {counts['guessed_tokens']:,} guesses used"
        each = counts["tokens_per_step"]
        yield "speculation", text + (f"; {figure(each)} tokens per step and answer" if each else "")


@dataclass(frozen=True)
class DraftModel(Speculation):
    """A smaller model with the same vocabulary guesses, one pass per token."""

    name: ClassVar[str] = "draft"
    in_plan: ClassVar[bool] = True
    unplanned: ClassVar[str] = ""
    costs: ClassVar[str] = "a smaller model of the same vocabulary, and its memory"
    paper: ClassVar[Citation] = Citation(
        "Fast inference from transformers via speculative decoding", "arXiv:2211.17192"
    )
    first: ClassVar[str] = "model"
    keys: ClassVar[Mapping[str, str]] = {"k": "tokens", DEGREES[0]: "draft_tp"}
    usual: ClassVar[Defaults] = Defaults(
        4, 0.7, "Leviathan et al., arXiv:2211.17192, table 3: 0.5-0.8 for drafts 20-100 times smaller"
    )

    model: Annotated[str, "name of the draft model, such as llama-3.2-1b"] = ""
    draft_tp: Annotated[
        int,
        Quantity("1", "devices the draft is split over; 0 = the model's where its heads allow, else one", ge=0, le=1e5),
    ] = 0
    on: Annotated[str, "machine the draft runs on, when it is another than the model's: rtx_2080_ti"] = ""

    @property
    def wanted(self) -> Wanted:
        """Who guesses, as it is built."""
        return Wanted(self.guesser, self.guesses, self.model, self.draft_tp, on=self.on)

    def problems(self) -> list[Problem]:
        """No model named, an unknown machine."""
        found = super().problems()
        found += [] if self.model else [Problem(self.name, "a draft needs its model: draft:llama-3.2-1b")]
        try:
            read_devices(self.on or "h100_sxm")
        except InputError as error:
            found += [Problem(self.name, problem.message) for problem in error.problems]
        return found


@dataclass(frozen=True)
class Ngram(Speculation):
    """The prompt's own n-grams guess; free."""

    name: ClassVar[str] = "ngram"
    in_plan: ClassVar[bool] = True
    unplanned: ClassVar[str] = ""
    paper: ClassVar[Citation] = Citation("Prompt lookup decoding", "github.com/apoorvumang/prompt-lookup-decoding")
    usual: ClassVar[Defaults] = Defaults(3, 0.3, "guess: high where the answer copies the prompt, near 0 in free text")
    passes: ClassVar[int] = 3


@dataclass(frozen=True)
class Medusa(Speculation):
    """Heads on the last hidden state guess, all in one pass."""

    name: ClassVar[str] = "medusa"
    costs: ClassVar[str] = "heads to train for the model"
    paper: ClassVar[Citation] = Citation(
        "Medusa: simple LLM inference acceleration framework with multiple decoding heads", "arXiv:2401.10774"
    )
    keys: ClassVar[Mapping[str, str]] = {"heads": "tokens", "k": "tokens"}
    usual: ClassVar[Defaults] = Defaults(
        4, 0.6, "Cai et al., arXiv:2401.10774: first head right about 60 % of the time"
    )
    passes: ClassVar[int] = 2


@dataclass(frozen=True)
class Eagle(Speculation):
    """One further layer on the model's hidden states guesses, one pass per token."""

    name: ClassVar[str] = "eagle"
    costs: ClassVar[str] = "a draft head to train for the model"
    also: ClassVar[tuple[str, ...]] = ("eagle2", "eagle-2")
    paper: ClassVar[Citation] = Citation(
        "EAGLE: speculative sampling requires rethinking feature uncertainty", "arXiv:2401.15077"
    )
    usual: ClassVar[Defaults] = Defaults(4, 0.75, "Li et al., arXiv:2401.15077, table 2: 0.68-0.80 on MT-bench")


@dataclass(frozen=True)
class Eagle3(Speculation):
    """As EAGLE, from three of the model's hidden states, over a vocabulary of its own."""

    name: ClassVar[str] = "eagle3"
    costs: ClassVar[str] = "a draft head to train for the model"
    also: ClassVar[tuple[str, ...]] = ("eagle-3",)
    paper: ClassVar[Citation] = Citation(
        "EAGLE-3: scaling up inference acceleration via training-time test", "arXiv:2503.01840"
    )
    usual: ClassVar[Defaults] = Defaults(4, 0.78, "Li et al., arXiv:2503.01840, table 1: 0.7-0.85 on MT-bench")

    vocab: Annotated[int, Quantity("1", "tokens its head scores; 0 = all of the model's", ge=0, le=1e7)] = 32_000

    @property
    def wanted(self) -> Wanted:
        """Who guesses, as it is built."""
        return Wanted(self.guesser, self.guesses, vocab=self.vocab)


@dataclass(frozen=True)
class Dflash(Speculation):
    """A few layers on the model's hidden states guess a whole block in one pass (block diffusion)."""

    name: ClassVar[str] = "dflash"
    costs: ClassVar[str] = "a block-diffusion draft to train for the model"
    paper: ClassVar[Citation] = Citation("DFlash: block diffusion for flash speculative decoding", "arXiv:2602.06036")
    usual: ClassVar[Defaults] = Defaults(15, 0.8, "guess: published lengths of 4 to 7 tokens in blocks of 16")
    passes: ClassVar[int] = 2

    layers: Annotated[int, Quantity("1", "layers of the draft", ge=1, le=100)] = 5

    @property
    def wanted(self) -> Wanted:
        """Who guesses, as it is built."""
        return Wanted(self.guesser, self.guesses, layers=self.layers, block=self.guesses)


@dataclass(frozen=True)
class Mtp(Speculation):
    """The model's own multi-token prediction layer guesses."""

    name: ClassVar[str] = "mtp"
    in_plan: ClassVar[bool] = True
    unplanned: ClassVar[str] = ""
    costs: ClassVar[str] = "a head that the model was trained with"
    paper: ClassVar[Citation] = Citation("DeepSeek-V3 technical report", "arXiv:2412.19437")
    usual: ClassVar[Defaults] = Defaults(
        1, 0.85, "DeepSeek-V3, arXiv:2412.19437, section 5.4.3: 85-90 % for the second token"
    )


@dataclass(frozen=True)
class Tree(Speculation):
    """Several guesses per position, verified together."""

    name: ClassVar[str] = "tree"
    costs: ClassVar[str] = "heads to train for the model"
    paper: ClassVar[Citation] = Citation(
        "Sequoia: scalable, robust, and hardware-aware speculative decoding", "arXiv:2402.12374"
    )
    keys: ClassVar[Mapping[str, str]] = {"k": "tokens", "depth": "tokens", DEGREES[0]: "draft_tp"}
    usual: ClassVar[Defaults] = Defaults(4, 0.75, "as its guesser, per node")
    turns: ClassVar[int] = 2  # it is chosen from the scores and masked

    width: Annotated[int, Quantity("1", "guesses per position", ge=1, le=10_000)] = 2
    nodes: Annotated[
        int, Quantity("1", "tokens verified per sequence beside the last known one; 0 = width x depth", ge=0, le=1e5)
    ] = 0
    by: Annotated[str, "who guesses: draft, medusa, eagle, eagle3 or mtp"] = "eagle"
    model: Annotated[str, "name of the draft model, by draft"] = ""
    draft_tp: Annotated[int, Quantity("1", "as of draft", ge=0, le=1e5)] = 0

    def problems(self) -> list[Problem]:
        """A guesser that cannot be, a tree too large or adaptive."""
        found = super().problems()
        if found and self.curve:
            return found
        if self.by not in GUESSERS or self.by in ("tree", "ngram", "dflash"):
            found.append(
                Problem(self.name, f"a tree is guessed by draft, medusa, eagle, eagle3 or mtp, not {self.by!r}")
            )
        elif self.by == "draft" and not self.model:
            found.append(Problem(self.name, "a draft needs its model: by=draft,model=llama-3.2-1b"))
        if self.verified > MOST_NODES:
            found.append(Problem(self.name, f"expected 1 to {MOST_NODES} tokens in a tree, got {self.verified}"))
        if self.adaptive and self.width > 1:
            found.append(Problem(self.name, "a tree has a fixed size: adaptive chooses the length of a chain"))
        return found

    @property
    def guesser(self) -> str:
        """Who guesses."""
        return self.by

    @property
    def wanted(self) -> Wanted:
        """Who guesses, as it is built."""
        by = GUESSERS[self.by]
        vocab = by(tokens=self.guesses).wanted.vocab if self.by != "draft" else 0
        block = self.width if by.passes == 1 else 1
        return Wanted(self.by, self.guesses, self.model, self.draft_tp, vocab, block=block)

    @property
    def likely(self) -> float:
        """As its guesser."""
        return GUESSERS[self.by].usual.accept if self.accept is None else self.accept

    @property
    def verified(self) -> int:
        """Nodes beside the root."""
        return self.nodes or self.width * self.guesses

    @property
    def right(self) -> float:
        """One of ``width`` guesses is right with ``1 - (1 - a) w^-b``."""
        if self.length is not None or self.curve:
            return super().right
        return float(1.0 - (1.0 - self.likely) * self.width**-TREE_EXPONENT)


#: Methods by name.
GUESSERS: Mapping[str, type[Speculation]] = {
    c.name: c for c in (DraftModel, Ngram, Medusa, Eagle, Eagle3, Dflash, Mtp, Tree)
}
