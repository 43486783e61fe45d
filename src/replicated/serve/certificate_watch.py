"""Certificates read again when their files change, and when SIGHUP says so.

Decides when. A file that cannot be used is said, and said again only when it changes once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable

from .certificate_shelf import CertificateShelf

__all__ = ["CertificateWatch"]


class CertificateWatch:
    """Runs beside the fronts: ``async with CertificateWatch(shelf, say): ...``.

    Args:
        shelf: Whose files are watched.
        say: Is told in one line what has been read, or why not.
        period: Seconds between two looks at the files, which cost some microseconds each.
    """

    def __init__(self, shelf: CertificateShelf, say: Callable[[str], None], *, period: float = 2.0) -> None:
        self.shelf = shelf
        self.say = say
        self.period = period
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> CertificateWatch:
        """Start."""
        with contextlib.suppress(NotImplementedError):  # where there are no signals to hear
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.reload)
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Stop."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)

    def reload(self) -> None:
        """Read all files again, and say how that went."""
        try:
            self.shelf.reload()
        except (OSError, ValueError) as error:  # the former where a file goes while it is read
            self.say(f"the certificates stay as they were: {error}")
        else:
            self.say("the certificates were read again")

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self.period)
            if self.shelf.changed():
                self.reload()
