"""``steelyard validate``: how right the predictions are on measured tables.

The readers of published tables and the scoring are ``steelyard-validation``, a package of the repository outside the
wheel: a checkout has it (``make validate``), elsewhere ``pip install ./validation`` adds it.
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from steelyard.errors import InputError

__all__ = ["validate"]

try:
    from steelyard_validation.command import validate
except ModuleNotFoundError as _error:
    if not (_error.name or "").startswith("steelyard_validation"):
        raise

    def validate(*arguments: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> None:  # type: ignore[misc]
        """Compare predictions with measured tables (needs the package steelyard-validation)."""
        message = "the readers of measured tables are not part of the wheel"
        raise InputError(f"{message}; in a checkout of Steelyard: pip install ./validation", field="validate")
