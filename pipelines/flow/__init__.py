"""The mathematics of paths between data and noise. Torch only."""
