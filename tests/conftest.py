"""What all tests share: no limit of time on examples, and a real Valkey or Redis for whoever needs one."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# How long an example takes says more about what else the machine does than about the code.
settings.register_profile("untimed", settings(deadline=None))
settings.load_profile("untimed")


class RedisServer:
    """A Valkey or Redis on a socket in a directory, which can be stopped, killed and started again."""

    def __init__(self, directory: Path, port: int = 0, *more: str) -> None:
        program = shutil.which("valkey-server") or shutil.which("redis-server")
        if program is None:
            pytest.skip("neither valkey-server nor redis-server is installed")
        self.port = port
        self.socket = str(directory / "s")
        options = ["--port", str(port), "--unixsocket", self.socket, "--save", "", "--dir", str(directory)]
        self.command = [program, *options, *more]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if "ready to accept connections at" in line.lower():
                return
        raise AssertionError("the server did not start")

    def stop(self) -> None:
        """Let it hang until it goes on."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.go_on()
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def client(self, *, later: bool = False, timeout: float | None = 5.0, retries: int = 0) -> Any:
        """Return a client for threads, or for coroutines."""
        redis = pytest.importorskip("redis.asyncio" if later else "redis", reason="the client is an extra")
        retry = self.retry(later, retries)
        return redis.Redis(unix_socket_path=self.socket, socket_timeout=timeout, retry=retry)

    def cluster(self, *, later: bool = False, retries: int = 0) -> Any:
        """Return a client of the cluster that this server is."""
        module = pytest.importorskip("redis.asyncio.cluster" if later else "redis.cluster")
        retry = self.retry(later, retries)
        return module.RedisCluster(host="127.0.0.1", port=self.port, socket_timeout=5, retry=retry)

    def retry(self, later: bool, retries: int) -> Any:
        backoff = pytest.importorskip("redis.backoff", reason="the client is an extra").NoBackoff()
        return pytest.importorskip("redis.asyncio.retry" if later else "redis.retry").Retry(backoff, retries)


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for those who leave it as it was."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server for those who ill-treat it."""
    server = RedisServer(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def redis_cluster(tmp_path: Path) -> Iterator[RedisServer]:
    """A cluster of one, which has every slot."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1] % 20_000 + 20_000  # its bus listens 10,000 above
    server = RedisServer(tmp_path, port, "--bind", "127.0.0.1", "--cluster-enabled", "yes")
    try:
        with server.client() as node:
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            while node.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                threading.Event().wait(0.05)
        yield server
    finally:
        server.kill()
