"""What acts: the only place that does I/O, sleeps, starts tasks or threads, or knows asyncio, httpx or ASGI.

Nothing is imported here, since each adapter asks for an extra of its own: ``httpx_transport`` for clients of
httpx, ``asgi`` for applications, ``probes`` for readiness, ``async_loader`` for coroutines that load.
"""

__all__: list[str] = []
