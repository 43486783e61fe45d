"""How a request reaches a replica: connections, pools of them, deadlines for every wait."""

__all__: list[str] = []
