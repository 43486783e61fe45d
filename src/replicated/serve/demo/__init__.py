"""The demo: three tiers as processes, and the proof of the pattern with live traffic."""

__all__: list[str] = []
