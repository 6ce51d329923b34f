"""The local page: every verb as a screen and as JSON, over the same library; see :mod:`steelyard.page.screen`."""
