"""What a program costs: op models, the one pricing door, memory and energy."""
