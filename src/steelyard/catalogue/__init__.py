"""Data only: machines, models, networks, nodes, prices, engines, formats, calibration."""
