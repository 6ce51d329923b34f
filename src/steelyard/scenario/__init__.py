"""Questions: what a user can ask, read from words."""
