"""The plug-in is a package of its own: its tests run with it installed, from ``test_plugin``."""

collect_ignore = ["steelyard-example"]
