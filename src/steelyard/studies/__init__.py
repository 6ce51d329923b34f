"""Studies: many questions, one store."""
