"""``python -m replicated.serve.pydocs``: one replica of the application."""

from __future__ import annotations

import sys

from .application import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
