"""What runs: the command line, a tier as a process, the processes of a service, the demo."""

__all__: list[str] = []
