"""The attempts of one request of an httpx client: where each goes, and what its end tells of the replica.

Decides what it takes a client to know: which requests can be repeated, and when one is over. Sends nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, assert_never

from ..affinity import Affinity, Facts
from ..http.message import REPEATABLE, RETRIED
from ..outcome import Outcome
from ..tier import Forward, Hit, Refuse, Tier, Unavailable

if TYPE_CHECKING:
    from .httpx_names import Names

__all__ = ["Attempts", "Ending"]

TOO_EARLY = Outcome.cancelled("closed before its end")


class Attempts:
    """What both transports decide alike, between their calls.

    Args:
        tier: Who decides.
        names: The module of the request.
        request: What the client asks.
        key: What it is kept on one replica by.
        whom: Whom it counts against.

    Raises:
        RefusedError: The throttle said no.
        NoReplicaError: Nobody can serve.
    """

    __slots__ = ("forward", "names", "request", "tier")

    def __init__(
        self,
        tier: Tier,
        names: Names,
        request: Any,
        affinity: Affinity | None,
        throttle_key: Callable[[Any], str | None] | None,
    ) -> None:
        self.tier = tier
        self.names = names
        self.request = request
        key = None
        if affinity is not None:
            path = request.url.raw_path.partition(b"?")[0].decode("latin-1")
            headers = [(name.lower(), value) for name, value in request.headers.raw]
            key = affinity(Facts(path=path, headers=headers))
        whom = throttle_key(request) if throttle_key else None
        decision = tier.decide(key, throttle_key=whom)
        match decision:
            case Forward():
                self.forward = decision
            case Refuse():
                raise names.refused(decision.explain(), decision.retry_after)
            case Unavailable():
                raise names.no_replica(decision.explain(), decision.retry_after)
            case Hit():
                raise AssertionError("nothing was asked of the cache")
            case _:
                assert_never(decision)

    @property
    def replayable(self) -> bool:
        """Whether the body can be sent again: bytes can, a stream may be half consumed."""
        return isinstance(self.request.stream, self.names.module.ByteStream)

    def failed(self, error: BaseException, *, untouched: bool = False) -> None:
        """Finish the attempt, and go on to the next one or raise.

        Args:
            error: What the attempt ended with.
            untouched: Whether nothing was sent, and not even the body was asked for its first piece.
        """
        names = self.names
        if not isinstance(error, names.TransportError) or isinstance(error, names.ours):
            self.tier.finish(self.forward, Outcome.cancelled(type(error).__name__))
            raise error
        self.tier.finish(self.forward, blame(error))
        unseen = untouched or isinstance(error, names.not_sent)
        again = untouched or (self.replayable and (unseen or self.request.method in REPEATABLE))
        if not again or not self.next(unseen=unseen):
            raise error

    def next(self, *, unseen: bool = False) -> bool:
        """Go on to another replica, if the tier has one for a request whose attempt was finished."""
        decision = self.tier.retry(self.forward, unseen=unseen)
        if isinstance(decision, Forward):
            self.forward = decision
            return True
        return False

    def answered(self, status: int) -> Ending | None:
        """Return what finishes the attempt with the response's body, or None to try another replica."""
        forward, latency = self.forward, max(0.0, self.tier.now() - self.forward.started)
        if status < 500 or status == 501:
            return Ending(self.tier, forward, Outcome.success(latency), TOO_EARLY)
        failure = Outcome.failure(f"status {status}", latency)
        if status in RETRIED and self.replayable and self.request.method in REPEATABLE:
            self.tier.finish(forward, failure)
            return None if self.next() else Ending(self.tier, None, failure, failure)
        return Ending(self.tier, forward, failure, failure)


def blame(error: Exception) -> Outcome:
    return Outcome.failure(f"{type(error).__name__}: {error}")


class Ending:
    """Finishes an attempt once: when the body is over, or given up.

    Args:
        tier: Whose attempt it is.
        forward: What is finished; None when it was before.
        whole: How it ended when the body was whole.
        otherwise: How it ended when the body was not read to its end.
    """

    __slots__ = ("forward", "outcome", "tier", "whole")

    def __init__(self, tier: Tier, forward: Forward | None, whole: Outcome, otherwise: Outcome) -> None:
        self.tier = tier
        self.forward = forward
        self.whole = whole
        self.outcome = otherwise

    def broke(self, error: Exception) -> None:
        """Say that the body ended with an error of the replica's."""
        self.outcome = blame(error)

    def finish(self) -> None:
        """Finish the attempt, if that was not done before."""
        forward, self.forward = self.forward, None
        if forward is not None:
            self.tier.finish(forward, self.outcome)
