"""What leaves the house, in the words of others: signatures, statements, bill of materials, card, Croissant and so on.

Every module here turns facts that artifacts carry (:mod:`pipelines.chain`, :mod:`pipelines.provenance`) into one
format; none of them collects facts of its own.
"""
