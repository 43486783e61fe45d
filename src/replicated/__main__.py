"""``python -m replicated`` and the command ``replicated``: hands over to the command line, if it is there."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; without its extra, say which one is missing and exit with 2."""
    try:
        from .serve.cli import replicated
    except ImportError as error:
        if (error.name or "replicated").partition(".")[0] == "replicated" and not error.name:
            message = str(error)
        else:
            message = f"the command line needs an extra: pip install 'replicated-tier[serve]' ({error})"
        sys.stderr.write(f"replicated: {message}\n")
        sys.exit(2)
    replicated(prog_name="replicated")


if __name__ == "__main__":
    main()
