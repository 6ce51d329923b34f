"""Search: the cheapest deployment that holds a promise, from an analytic screen and simulated finalists."""

from steelyard.search.answer import Answer, Candidate, Change, Infeasible, Question

__all__ = ["Answer", "Candidate", "Change", "Infeasible", "Question"]
