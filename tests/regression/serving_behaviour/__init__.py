"""What serving papers found, found again by the simulator: one folder per effect, its text says which and where from.

Nothing is fitted to these papers and no figure of theirs is copied; the assertions hold direction and size.
"""
