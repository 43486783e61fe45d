"""The hasher for pymemcache, alone and against real memcached servers."""

from __future__ import annotations

import functools
import shutil
import socket
import subprocess

import pytest

from replicated.adapters.pymemcache_hasher import RingHasher
from replicated.ring import HashRing, layouts

KEYS = [f"user:{number}" for number in range(300)]


def test_speaks_as_pymemcache_does():
    """Nodes come and go one at a time, twice is once, removing a stranger is refused, nobody is None."""
    hasher = RingHasher()
    assert hasher.get_node("k") is None
    for node in ("a:1", "b:1", "a:1"):
        hasher.add_node(node)
    assert hasher.ring == HashRing(["a:1", "b:1"])
    assert hasher.get_node("k") == hasher.ring.owner("k") == hasher.get_node(b"k")
    hasher.remove_node("a:1")
    assert {hasher.get_node(key) for key in KEYS} == {"b:1"}
    with pytest.raises(ValueError, match="'a:1'"):
        hasher.remove_node("a:1")
    with pytest.raises(TypeError, match="key"):
        hasher.get_node(3)


def test_weights_and_layout():
    """Weights apply to the servers that they name, and the layout to all."""
    hasher = RingHasher(layout=layouts.nginx(), weights={"a:1": 3})
    hasher.add_node("a:1")
    hasher.add_node("b:1")
    assert hasher.ring == HashRing({"a:1": 3, "b:1": 1}, layout=layouts.nginx())


@pytest.fixture
def servers():
    """Three memcached processes on free ports, with the addresses they listen at."""
    binary = shutil.which("memcached")
    if binary is None:
        pytest.skip("no memcached on the PATH (Debian: apt-get install memcached)")
    processes = []
    addresses = []
    try:
        while len(processes) < 3:
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            command = [binary, "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-m", "8", "-u", "nobody"]
            processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            addresses.append(("127.0.0.1", port))
        for address, process in zip(addresses, processes, strict=True):
            wait_for(address, process)
        yield addresses, processes
    finally:
        for process in processes:
            process.kill()
            process.wait(10)


def wait_for(address, process):
    while process.poll() is None:
        try:
            socket.create_connection(address, 1).close()
        except ConnectionRefusedError:
            continue
        return
    pytest.fail("memcached did not start")


@pytest.mark.parametrize("layout", [None, layouts.libmemcached()], ids=["default", "libmemcached"])
def test_real_memcached(servers, layout):
    """Each key is stored on the server that the ring names, and only a dead server's keys move."""
    hash_client = pytest.importorskip("pymemcache.client.hash")
    base = pytest.importorskip("pymemcache.client.base")
    addresses, processes = servers
    names = [f"{host}:{port}" for host, port in addresses]
    ring = HashRing(names, layout=layout)
    client = hash_client.HashClient(
        addresses,
        hasher=functools.partial(RingHasher, layout=layout),
        retry_attempts=0,
        dead_timeout=3600,
        ignore_exc=True,
    )
    assert client.set_many(dict.fromkeys(KEYS, b"here"), noreply=False) == []
    for address, name in zip(addresses, names, strict=True):
        direct = base.Client(address)
        held = set(direct.get_many(KEYS))
        direct.close()
        assert held == {key for key in KEYS if ring.owner(key) == name}

    processes[0].kill()
    processes[0].wait(10)
    for key in KEYS:
        client.get(key)
    found = {key for key in KEYS if client.get(key) == b"here"}
    assert found == {key for key in KEYS if ring.owner(key) != names[0]}
    ring.remove(names[0])
    assert all(client.hasher.get_node(key) == ring.owner(key) for key in KEYS)
    client.close()
