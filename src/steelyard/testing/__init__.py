"""Contract suites for plug-in authors: what every machine, model family and cost model must keep."""
