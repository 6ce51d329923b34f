"""What every result can do to be read: ``to_dict``, ``to_pandas``, ``_repr_html_``, ``plot``.

The forms belong to `steelyard.report`, which stands above the results. It is imported by name when a form is first
asked for, so that no result knows its reports.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["Result"]


class Result:
    """A result of a verb; :mod:`steelyard.report.results` has its forms under the name of its class."""

    def _forms(self) -> Any:
        return import_module("steelyard.report.results").forms_of(self)

    def to_dict(self) -> dict[str, Any]:
        """The result in its stable JSON form: SI units, nothing that is not finite."""
        found: dict[str, Any] = self._forms().to_dict(self)
        return found

    def to_pandas(self) -> Any:
        """The result as a ``pandas.DataFrame``.

        Raises:
            InputError: pandas is not installed.
        """
        return import_module("steelyard.report.results").frame_of(self)

    def plot(self, *names: str) -> Any:
        """The figures of the result, as the page and the reports show them.

        Args:
            names: of the figures that are wanted; without one all.

        Returns:
            :class:`steelyard.report.figures.pictures.Pictures`, which a notebook draws; ``save`` writes them.

        Raises:
            InputError: there is nothing to draw, or no figure of a name.
        """
        return import_module("steelyard.report.figures.pictures").pictures_of(self, names)

    def _repr_html_(self) -> str:
        """The report for a notebook."""
        return str(import_module("steelyard.report.results").html_of(self))

    def __repr__(self) -> str:
        return str(self._forms().summary(self))
