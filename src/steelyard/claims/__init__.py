"""Numbers that papers claim, as scenarios that are asked of the public verbs, and what became of them."""
