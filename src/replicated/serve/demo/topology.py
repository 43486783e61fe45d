"""The demo's seven processes less one: which programs run, with which flags, and where they listen.

Knows how the tiers are put together, not what is proved about them.
"""

from __future__ import annotations

import asyncio
import random
import socket
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from ..supervisor import Supervisor

__all__ = ["BURST", "RATE", "Node", "Topology", "free_ports"]

RATE = 50
"""Requests a second that one client may ask of one path, as the demo sets its throttle."""
BURST = 100
PROBE_PERIOD = 0.25
DRAIN = 1.5
"""Seconds that a replica goes on serving after SIGTERM: six probes of the tier before it."""


@dataclass(frozen=True, slots=True)
class Node:
    """One process of the demo.

    Args:
        name: What it is called, everywhere.
        module: The program.
        arguments: Its flags.
        url: Where it listens.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    url: str


@dataclass(slots=True)
class Topology:
    """The three tiers, outermost last.

    Args:
        certificate: The edge's certificate, PEM.
        key: Its private key, PEM.
        host: Where everything listens.
        apps: Replicas of the application.
        caches: Replicas of the cache.
    """

    certificate: Path
    key: Path
    host: str = "127.0.0.1"
    apps: int = 3
    caches: int = 2
    nodes: dict[str, Node] = field(init=False)

    def __post_init__(self) -> None:
        ports = iter(free_ports(self.host, self.apps + self.caches + 1))
        apps = [self.app(f"app-{n}", next(ports)) for n in range(1, self.apps + 1)]
        caches = [self.cache(f"cache-{n}", next(ports), apps) for n in range(1, self.caches + 1)]
        edge = self.edge(next(ports), caches)
        self.nodes = {node.name: node for node in (*apps, *caches, edge)}

    def tier(self, kind: str) -> list[Node]:
        """Return the replicas of one tier: ``app``, ``cache`` or ``edge``."""
        return [node for node in self.nodes.values() if node.name.partition("-")[0] == kind]

    @property
    def url(self) -> str:
        """Where clients come in."""
        return self.nodes["edge"].url

    def app(self, name: str, port: int) -> Node:
        arguments = ("--listen", f"{self.host}:{port}", "--id", name, "--drain-delay", str(DRAIN))
        return Node(name, "replicated.serve.pydocs", arguments, f"http://{self.host}:{port}")

    def cache(self, name: str, port: int, apps: list[Node]) -> Node:
        flags = "--affinity cookie:session --cache 64MiB --ttl 10"
        flags += f" --throttle {RATE}/s --burst {BURST} --throttle-by client-address,path"
        flags += f" --trust {self.host}"  # the edge, which alone is to reach this tier
        return self.serve(name, port, apps, flags)

    def edge(self, port: int, caches: list[Node]) -> Node:
        flags = f"--affinity path --tls-cert {self.certificate} --tls-key {self.key}"
        return self.serve("edge", port, caches, flags, scheme="https")

    def serve(self, name: str, port: int, upstreams: list[Node], flags: str, scheme: str = "http") -> Node:
        arguments = ["serve", "--listen", f"{self.host}:{port}", "--name", name, *flags.split()]
        for node in upstreams:
            arguments += ["--upstream", f"{node.name}={node.url}"]
        arguments += ["--probe", "/readyz", "--probe-period", str(PROBE_PERIOD), "--drain-delay", str(DRAIN)]
        return Node(name, "replicated", tuple(arguments), f"{scheme}://{self.host}:{port}")

    async def start(self, supervisor: Supervisor) -> None:
        """Start every process; none waits for another: readiness is what orders them."""
        for node in self.nodes.values():
            await supervisor.start(node.name, node.module, *node.arguments)

    async def until_ready(self, supervisor: Supervisor, name: str, timeout: float = 30.0) -> None:
        """Wait until a process says itself that it is ready.

        Raises:
            RuntimeError: It ended, or is not ready in time.
        """
        node = self.nodes[name]
        async with httpx.AsyncClient(verify=False) as client:
            for _ in range(round(timeout / 0.05)):
                child = supervisor[name]
                if child.returncode is not None:
                    raise RuntimeError(
                        f"{name} ended with {child.returncode}: {' '.join(list(child.output)[-3:])}"
                    )
                try:
                    if (await client.get(f"{node.url}/readyz")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)
        raise RuntimeError(f"{name} is not ready after {timeout:g} s")


def free_ports(host: str, count: int) -> list[int]:
    """Return ports that nobody listens on, below those that the system hands to outgoing connections: a
    replica that restarts must find its port as it left it.
    """
    ports: list[int] = []
    for port in random.sample(range(15000, 30000), 2000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError(f"there are no {count} free ports on {host}")
