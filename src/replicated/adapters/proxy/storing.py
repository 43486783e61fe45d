"""What becomes of an answer that may be stored, on its way to its reader: a page, a part of one, or neither.

It does not know who waits for it, nor whether it may be stored: the rules have said that it may.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...cache import Cache
from ...http.cache_decisions import Keep
from ...http.caching import HttpCacheRules
from ...http.fields import find
from ...http.message import Response
from ...http.stored import Stored
from .page_flight import Errand, PageFlight
from .pages import Pages
from .recording import Allowance, Recording

__all__ = ["Storing"]


class Storing:
    """Stores what is passed on, if it turns out to be whole and not too large.

    Args:
        pages: Where it goes.
        rules: Write what was done into the answer.
        largest: Bytes of a body beyond which it is not stored.
        allowance: What bodies on their way may take together.
        unstorable: Told of what others need not wait for again.
        resting: Told of what can be had again.
    """

    def __init__(
        self,
        pages: Pages,
        rules: HttpCacheRules,
        *,
        largest: int,
        allowance: Allowance,
        unstorable: Cache[str, bool],
        resting: Cache[str, bool],
    ) -> None:
        self.pages = pages
        self.rules = rules
        self.largest = largest
        self.allowance = allowance
        self.unstorable = unstorable
        self.resting = resting

    def recorded(
        self, errand: Errand, response: Response, keep: Keep, land: Callable[[str, PageFlight | None], None]
    ) -> Response:
        """Pass a storable response on, and store it once it is whole.

        Args:
            errand: For whom it was fetched.
            response: As it came.
            keep: What the rules have said of it.
            land: Called when there is no more to wait for, where the body streams.
        """
        why, flight = errand.fetch.why, errand.flight
        length = find(response.headers, b"content-length")
        if length is not None and length.isdigit() and (len(length) > 18 or int(length) > self.largest):
            self.unstorable.set(errand.slot, True)
            return self.rules.marked(response, why + b"; detail=too-large")
        if keep.extends and not self.pages.parts(errand.key):
            return self.rules.marked(response, why)  # there is nothing that it could extend
        if isinstance(response.body, bytes):
            if keep.span is None:
                return self.whole(errand, response, keep.stored, response.body)
            stored = self.keep(errand, keep, response.body)
            return self.rules.marked(response, why + b"; stored" if stored else why)

        def over() -> None:
            if recording.size > self.largest:
                self.unstorable.set(errand.slot, True)
            land(errand.slot, flight)

        recording = Recording(
            response,
            largest=self.largest,
            allowance=self.allowance,
            whole=lambda body: self.keep(errand, keep, body),
            over=over,
            wanted=lambda: flight is not None and flight.waiting > 0,
        )
        answer = replace(response, body=recording, close=recording.aclose)
        return self.rules.marked(answer, why + b"; stored")

    def whole(self, errand: Errand, response: Response, stored: Stored, body: bytes) -> Response:
        """Store a page whose body has come with its head, and answer with it."""
        page = stored.with_body(body)
        if page is None:
            return self.rules.marked(response, errand.fetch.why)
        self.keep_page(errand, page)
        answer = page.answer(errand.request, [line for line in response.headers if line[0] == b"age"][:1])
        return self.rules.marked(replace(answer, close=response.close), errand.fetch.why + b"; stored")

    def keep(self, errand: Errand, keep: Keep, body: bytes) -> bool:
        """Store what has come, a page or a part of one; return whether it was."""
        if keep.span is None:
            page = keep.stored.with_body(body)
            return page is not None and self.keep_page(errand, page)
        key, began, asked = errand.key, errand.began, errand.asked
        return self.noted(errand, self.pages.keep_part(key, keep, body, began, asked, self.largest))

    def keep_page(self, errand: Errand, page: Stored) -> bool:
        """Store a page, its body with it; return whether it was."""
        return self.noted(errand, self.pages.keep(errand.key, page, errand.began, errand.asked))

    def noted(self, errand: Errand, kept: bool) -> bool:
        if kept:  # so others may wait for the next fetch again
            self.unstorable.pop(errand.slot, None)
            self.resting.pop(errand.slot, None)
        return kept
