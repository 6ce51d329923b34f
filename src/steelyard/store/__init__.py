"""The results store: studies, their points, and every answer once."""
