"""`replicated serve` as a process: one program for every tier, which loses nothing when it stops."""

from __future__ import annotations

import concurrent.futures
import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections import Counter

import httpx
import pytest
from click.testing import CliRunner

from replicated import ReadySet, Replica
from replicated.balance import Subset
from replicated.serve.cli import replicated

READY = ("--probe", "/readyz", "--probe-period", "0.1")


def eventually(what, within: float = 10.0):  # type: ignore[no-untyped-def]
    """Return the first true answer of ``what``."""
    for _ in range(round(within / 0.02)):
        if answer := what():
            return answer
        time.sleep(0.02)
    raise AssertionError(f"not within {within} s")


def upstreams(backends) -> list[str]:  # type: ignore[no-untyped-def]
    return [flag for backend in backends for flag in ("--upstream", f"{backend.name}={backend.url}")]


def test_it_balances_and_tells_replicas_who_asks(serve, backends) -> None:
    """Requests spread over all replicas, which learn who asked and by way of whom."""
    served = serve(*upstreams(backends), "--name", "front", "--drain-delay", "60")
    with httpx.Client(base_url=served.url) as client:
        answers = [client.get("/x", headers={"x-forwarded-for": "6.6.6.6"}) for _ in range(60)]
    counts = Counter(answer.headers["x-replica"] for answer in answers)
    assert min(counts[name] for name in "abc") >= 5
    seen = answers[0].text.lower()
    assert "x-forwarded-for: 127.0.0.1" in seen
    assert "via: 1.1 front" in seen
    assert "6.6.6.6" not in seen
    assert served.stop(signal.SIGINT) == 0


def test_only_the_ready_are_asked(serve, backends) -> None:
    """A replica that says 503 gets nothing until it says 200; with nobody ready the answer is 503 at once."""
    for backend in backends:
        backend.ready = False
    served = serve(*upstreams(backends), *READY)
    with httpx.Client(base_url=served.url) as client:
        answer = client.get("/x")
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert client.get("/readyz").status_code == 503
        assert client.get("/livez").status_code == 200
        backends[1].ready = True
        eventually(lambda: client.get("/readyz").status_code == 200)
        assert {client.get("/x").headers["x-replica"] for _ in range(20)} == {"b"}
    assert not backends[0].asked
    assert not backends[2].asked


def test_a_router_has_its_part(serve, backends) -> None:
    """With a subset each router asks its own replicas alone, by its name or else by its host's and port."""
    flags = (*upstreams(backends), "--subset", "1")
    served = [serve(*flags, "--subset-as", "one"), serve(*flags, "--subset-as", "two"), serve(*flags)]
    parts = []
    for one in served:
        with httpx.Client(base_url=one.url) as client:
            parts.append({client.get("/x").headers["x-replica"] for _ in range(10)})
    fleet = ReadySet([Replica(name) for name in "abc"])
    assert parts[:2] == [{Subset(1, name).chosen(fleet)[0].id} for name in ("one", "two")]
    assert parts[0] != parts[1]
    assert len(parts[2]) == 1


def test_a_session_stays(serve, backends) -> None:
    """The ring hash keeps a cookie on one replica; without the cookie requests are balanced."""
    served = serve(*upstreams(backends), "--affinity", "cookie:session")
    homes = {}
    with httpx.Client(base_url=served.url) as client:
        for session in range(20):
            cookie = {"cookie": f"theme=dark; session=user-{session}"}
            replicas = {client.get("/x", headers=cookie).headers["x-replica"] for _ in range(5)}
            assert len(replicas) == 1
            homes[session] = replicas.pop()
    assert set(homes.values()) == {"a", "b", "c"}
    with httpx.Client(base_url=served.url) as client:
        assert len({client.get("/x").headers["x-replica"] for _ in range(40)}) > 1


def test_a_dead_replica_is_passed_over(serve, backends) -> None:
    """Requests that cannot reach their replica go to another one; all dead is 503, and never a hang."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = f"dead=http://127.0.0.1:{closed.getsockname()[1]}"
    served = serve("--upstream", dead, *upstreams(backends[:1]))
    alone = serve("--upstream", dead)
    with httpx.Client(base_url=served.url) as client:
        assert {client.get("/x").headers["x-replica"] for _ in range(20)} == {"a"}
        assert client.post("/x", content=b"abc").text == "3"
    assert httpx.get(f"{alone.url}/x").status_code == 503


def test_a_cache_asks_once(serve, backends) -> None:
    """A page that may be kept is fetched once, and says so."""
    served = serve(*upstreams(backends), "--cache", "1MiB")
    with httpx.Client(base_url=served.url) as client:
        first, second = client.get("/kept"), client.get("/kept")
        client.get("/other")
        client.get("/other")
    assert first.text == second.text
    assert "hit" in second.headers["cache-status"]
    asked = [path for backend in backends for path in backend.asked]
    assert Counter(asked) == {"/kept": 1, "/other": 2}


def test_a_throttle_refuses_and_says_for_how_long(serve, backends) -> None:
    """Beyond the burst one client's path is refused with 429; waiting Retry-After is enough."""
    served = serve(*upstreams(backends), "--throttle", "1/s", "--burst", "3")
    with httpx.Client(base_url=served.url) as client:
        statuses = [client.get(f"/x?n={n}").status_code for n in range(4)]
        assert statuses == [200, 200, 200, 429]
        refused = client.get("/x")
        assert client.get("/other").status_code == 200
        assert refused.headers["retry-after"] == "1"
        time.sleep(int(refused.headers["retry-after"]))
        assert client.get("/x").status_code == 200


def test_only_trusted_peers_speak_for_others(serve, backends) -> None:
    """With --trust, the throttle counts the client that the proxy in front names."""
    served = serve(*upstreams(backends), "--throttle", "1/h", "--burst", "1", "--trust", "127.0.0.1")
    with httpx.Client(base_url=served.url) as client:
        statuses = [
            client.get("/x", headers={"x-forwarded-for": address}).status_code
            for address in ("10.0.0.1", "10.0.0.2", "10.0.0.1")
        ]
    assert statuses == [200, 200, 429]


def test_tls_ends_at_the_edge(serve, backends) -> None:
    """Clients speak TLS to the edge, and replicas learn that they did."""
    served = serve(*upstreams(backends), "--tls-self-signed")
    assert served.url.startswith("https://")
    with httpx.Client(base_url=served.url, verify=False) as client:
        assert "x-forwarded-proto: https" in client.get("/x").text.lower()


def test_limits_have_answers(serve, backends) -> None:
    """Too large a header is 431, too large a body 413."""
    served = serve(*upstreams(backends), "--body-limit", "1kB", "--header-limit", "2kB")

    with httpx.Client(base_url=served.url) as client:
        assert client.get("/x", headers={"x": "y" * 3000}).status_code == 431
        assert client.post("/x", content=b"x" * 2000).status_code == 413
        assert client.post("/x", content=b"x" * 900).status_code == 200


def test_a_stop_loses_nothing(serve, backends) -> None:
    """At SIGTERM readiness goes first, requests are still served, what is in flight ends, the status is 0."""
    served = serve(*upstreams(backends), "--drain-delay", "0.6")
    with httpx.Client(base_url=served.url) as client, concurrent.futures.ThreadPoolExecutor() as pool:
        slow = pool.submit(httpx.get, f"{served.url}/slow", timeout=20)
        eventually(lambda: any("/slow" in backend.asked for backend in backends))
        assert client.get("/readyz").status_code == 200
        served.process.send_signal(signal.SIGTERM)
        eventually(lambda: client.get("/readyz").status_code == 503)
        late = client.get("/x")
        assert late.status_code == 200
        assert late.headers["connection"] == "close"
        eventually(lambda: refused(served.url))
        assert served.process.poll() is None
        for backend in backends:
            backend.hold.set()
        assert slow.result().status_code == 200
    assert served.stop() == 0


def refused(url: str) -> bool:
    try:
        httpx.get(f"{url}/x")
    except httpx.TransportError:
        return True
    return False


def test_a_second_signal_stops_at_once(serve, backends) -> None:
    """Whoever signals twice does not want to wait."""
    served = serve(*upstreams(backends), "--drain-delay", "60")
    with httpx.Client(base_url=served.url) as client:
        client.get("/x")
        served.process.send_signal(signal.SIGTERM)
        eventually(lambda: client.get("/readyz").status_code == 503)
    assert served.stop() == 0


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ([], "needs upstreams"),
        (["--upstream", "nonsense"], "url must be http://host:port"),
        (["--upstream", "http://x", "--upstream", "http://x"], "two upstreams"),
        (["--upstream", "http://x", "--strategy", "best"], "--strategy"),
        (["--upstream", "http://x", "--strategy", "ring-hash"], "needs an affinity"),
        (["--upstream", "http://x", "--affinity", "moon"], "affinity must be"),
        (["--upstream", "http://x", "--listen", "nowhere"], "HOST:PORT"),
        (["--upstream", "http://x", "--listen", "203.0.113.1:1"], "cannot listen on 203.0.113.1:1"),
        (["--upstream", "http://x", "--cache", "much"], "a size must be"),
        (["--upstream", "http://x", "--throttle", "often"], "a rate must be"),
        (["--upstream", "http://x", "--throttle", "1/s", "--burst", "nan"], "burst must be"),
        (["--upstream", "http://x", "--trust", "all"], "trusted must hold"),
        (
            ["--upstream", "http://x", "--tls-cert", "/nowhere.pem", "--tls-key", "/nowhere.pem"],
            "/nowhere.pem",
        ),
        (["--upstream", "http://x", "--tls-cert", "/nowhere.pem"], "go together"),
        (["--upstream", "http://x", "--tls-self-signed", "--tls-cert", "x"], "give no --tls-cert"),
        (["--upstream", "http://x", "--drain-delay", "-1"], "--drain-delay"),
    ],
)
def test_what_cannot_be_is_one_line_and_status_2(flags: list[str], complaint: str) -> None:
    """Bad flags, unreadable files and addresses that are not ours are one clear line, never a traceback."""
    done = CliRunner().invoke(replicated, ["serve", *flags])
    assert done.exit_code == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.output
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_port_in_use_is_said(serve, backends) -> None:
    """A second server on one port is refused in one line."""
    served = serve(*upstreams(backends))
    address = served.url.removeprefix("http://")
    done = subprocess.run(
        [sys.executable, "-m", "replicated", "serve", "--upstream", "http://x", "--listen", address],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"replicated: cannot listen on {address}: ")
    assert done.stderr.count("\n") == 1


def test_a_stale_page_outlives_its_replicas(serve, backends) -> None:
    """With --cache-keep, a page that has ended is served while nobody can make a new one."""
    served = serve(*upstreams(backends[:1]), "--cache", "1MiB", "--cache-keep", "60")
    with httpx.Client(base_url=served.url) as client:
        assert client.get("/brief").status_code == 200
        backends[0].down = True
        time.sleep(1.1)
        assert client.get("/brief").status_code == 200
        assert client.get("/other").status_code == 502


def test_without_the_extra_it_says_which() -> None:
    """The command without its dependencies is one line that names the extra, and status 2."""
    program = "import sys; sys.modules['click'] = None; from replicated.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "pip install 'replicated-tier[serve]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_command_lists_what_it_can() -> None:
    """Without a command the help is printed, and an unknown one is one line."""
    for name in ("demo", "ring", "serve", "simulate"):
        assert name in CliRunner().invoke(replicated, []).output
    unknown = CliRunner().invoke(replicated, ["frob"])
    assert (unknown.exit_code, unknown.stderr) == (2, "replicated: No such command 'frob'.\n")


def test_spellings_of_a_path_are_one_bucket(serve, backends) -> None:
    """Neither slashes, dots, encodings nor a query mint a bucket; a template gathers paths in one."""
    flags = ("--throttle", "1/h", "--burst", "2", "--throttle-path", "/users/{id}", "--ratelimit-fields")
    served = serve(*upstreams(backends), *flags)
    with httpx.Client(base_url=served.url) as client:
        first = client.get("/x")
        assert "r=1" in first.headers["ratelimit"]
        assert [client.get(path).status_code for path in ("/.//x", "/%78?q=1", "/%2e/x")] == [200, 429, 429]
        assert [client.get(f"/users/{n}").status_code for n in (1, 2, 3)] == [200, 200, 429]


def test_a_cache_forgets_when_it_is_told(serve, backends) -> None:
    """PURGE from an allowed network makes it fetch anew, and one that a proxy passed on does not."""
    served = serve(*upstreams(backends), "--cache", "1MiB", "--purge-from", "127.0.0.0/8")
    with httpx.Client(base_url=served.url) as client:
        client.get("/kept")
        assert client.request("PURGE", "/kept").json() == {"purged": 1}
        assert "hit" not in client.get("/kept").headers["cache-status"]
        assert client.request("PURGE", "/kept", headers={"x-forwarded-for": "127.0.0.1"}).status_code == 405


def test_a_balancer_of_bytes_says_for_whom_it_speaks(serve, backends) -> None:
    """With --proxy-protocol a trusted peer's connection is its client's; one without a header is closed."""
    served = serve(*upstreams(backends), "--proxy-protocol", "--trust", "127.0.0.1")
    port = int(served.url.rpartition(":")[2])
    asking = b"GET /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    answers = []
    for header in (b"PROXY TCP4 203.0.113.7 127.0.0.1 4711 80\r\n", b""):
        received = b""
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(header + asking)
            with contextlib.suppress(ConnectionResetError):
                while piece := connection.recv(65536):
                    received += piece
        answers.append(received)
    assert b"203.0.113.7" in answers[0]
    assert not answers[1]


def test_only_the_header_that_was_named_is_believed(serve, backends) -> None:
    """With --trust-header forwarded the client is who that says; X-Forwarded-For is what nobody checked."""
    served = serve(*upstreams(backends), "--trust", "127.0.0.1", "--trust-header", "forwarded")
    claims = {"forwarded": "for=203.0.113.7", "x-forwarded-for": "6.6.6.6"}
    seen = httpx.get(f"{served.url}/x", headers=claims).text.lower()
    assert "x-forwarded-for: 203.0.113.7, 127.0.0.1" in seen
    assert "6.6.6.6" not in seen
