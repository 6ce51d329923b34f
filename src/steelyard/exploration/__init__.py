"""Design-space exploration: solvers, what is searched for with them, and predictors of few measurements."""
