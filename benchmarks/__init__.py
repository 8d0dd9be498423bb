"""Figures as ratios: ours against a named peer or limit, measured in turn in one run. `make bench` runs them all."""
