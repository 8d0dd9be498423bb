"""Stages evaluation and report."""
