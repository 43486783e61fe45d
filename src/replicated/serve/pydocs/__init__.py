"""The application that the demo replicates: a searchable browser of this Python's documentation.

It stands for any service worth replicating, and runs alone as well: ``python -m replicated.serve.pydocs``.
"""

__all__: list[str] = []
