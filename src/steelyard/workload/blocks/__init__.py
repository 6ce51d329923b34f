"""Building blocks of models: each writes the ops of one part for one step."""
