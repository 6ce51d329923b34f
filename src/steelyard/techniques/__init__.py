"""Published techniques, one file each."""
