"""What stands between a front and the engine: handlers around handlers, the exchange innermost."""

__all__: list[str] = []
