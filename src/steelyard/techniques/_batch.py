"""What a technique may change of a static batch: requests that arrive together at an idle engine (``estimate``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from steelyard.cost.step import StepFigures

__all__ = ["InBatch"]


class InBatch:
    """Hooks of :func:`steelyard.estimation.static_batch.static_batch`; sizes are arrays ``[n]`` over scenarios."""

    in_batch: ClassVar[bool] = False
    """Of what acts while requests run: it prices a static batch as well."""
    batch_only: ClassVar[bool] = False
    """It prices a static batch alone."""

    def lengths(self, prompt: Any, answer: Any) -> tuple[Any, Any]:
        """Tokens of prompt and answer, where it makes them others than were asked for."""
        return prompt, answer

    def samples(self) -> int:
        """Answers drawn for each prompt, which they share."""
        return 1

    @property
    def per_token(self) -> bool:
        """Whether it says with :meth:`answering` what a token of an answer takes: two of those do not compose."""
        return False

    def prompting(self, scenario: Any, batch: Any, prompt: Any, step: StepFigures) -> StepFigures:
        """What reading the prompts of a step takes.

        Args:
            scenario: of the batch.
            batch, prompt: sequences of the step and their tokens, ``[n]``.
            step: the same without it.
        """
        return step

    def answering(self, scenario: Any, batch: Any, context: Any, step: StepFigures) -> StepFigures:
        """What a token of each answer takes.

        Args:
            scenario: of the batch.
            batch: sequences of a replica that decode together, ``[n]``.
            context: tokens of the cache of each, ``[n]``.
            step: a decode without it.
        """
        return step

    def finishing(self, scenario: Any, batch: Any, prompt: Any, answer: Any) -> StepFigures | None:
        """What follows the last token, all of a replica's sequences together; None: nothing.

        Args:
            scenario: of the batch.
            batch: answers of a replica, ``[n]``.
            prompt, answer: tokens of each.
        """
        return None

    def batch_bytes(self, scenario: Any, batch: Any, context: Any) -> Any:
        """Bytes of each device that it takes beside the model's, for so many sequences of so many tokens."""
        return 0.0
