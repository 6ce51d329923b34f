"""Data only: machines, models, networks, nodes, systems, prices, engines, formats, calibration."""
