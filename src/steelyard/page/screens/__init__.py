"""The screens, one file each; see :mod:`steelyard.page.screen`."""
