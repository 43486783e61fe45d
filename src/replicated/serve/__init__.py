"""What runs: the command line, a tier as a process, the processes of a service, the demo. Nobody imports it."""

__all__: list[str] = []
