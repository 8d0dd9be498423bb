"""One loop, one objective interface, one checkpoint format."""
