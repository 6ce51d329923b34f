"""Search: the cheapest deployment that meets its SLOs, from an analytic screen and simulated finalists."""

from steelyard.search.answer import Answer, Candidate, Change, Infeasible, Question

__all__ = ["Answer", "Candidate", "Change", "Infeasible", "Question"]
