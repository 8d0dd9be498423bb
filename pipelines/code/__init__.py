"""What code a stage is made of: one hash of the definitions that its function reaches, read from the source.

``reach`` follows names from a function through the modules of this package, ``definitions`` takes one file apart,
``syntax`` writes a definition down without comments, docstrings, formatting and places, and ``record`` keeps the result
of all stages in ``code.json``. Imports nothing but the standard library and runs on Python 3.11, 3.12 and 3.13 alike.
"""
