"""What acts: the only place that does I/O, sleeps, starts tasks or threads, or knows asyncio, httpx or ASGI.

Nothing is imported here, since each adapter asks for an extra of its own: ``httpx_transport`` for clients of
httpx, ``asgi`` for applications, ``probes`` for readiness, ``async_loader`` for coroutines that load. The way
of one request through a tier is ``front`` (how it comes in), ``proxy`` (what becomes of it) and ``engine``
(how it reaches a replica).
"""

__all__: list[str] = []
