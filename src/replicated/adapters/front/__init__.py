"""How a request comes in: HTTP/1.1 on sockets of our own, its limits, and a stop that loses nothing."""

__all__: list[str] = []
