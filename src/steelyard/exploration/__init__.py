"""Design-space exploration: spaces of choices, solvers over them, and what is searched for."""
