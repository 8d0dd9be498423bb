"""The identity of code."""
