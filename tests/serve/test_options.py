"""What the flags mean, and one sentence where they cannot be."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from replicated import Replica
from replicated.adapters.engine.upstream import Timeouts
from replicated.adapters.front.limits import FrontLimits
from replicated.serve import options
from replicated.serve.cli import replicated
from replicated.serve.options import ServeOptions
from replicated.serve.service import Service

ONE = options.upstreams(["http://127.0.0.1:9001"])


def test_upstreams_are_named_alike_by_every_router() -> None:
    """A replica is known by its host and port, or by the name it is given."""
    assert options.upstreams(["http://127.0.0.1:9001", "b=https://[::1]", "c=http://x:80/"]) == (
        Replica("127.0.0.1:9001", "http://127.0.0.1:9001"),
        Replica("b", "https://[::1]"),
        Replica("c", "http://x:80"),
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:9001",
        "ftp://x",
        "http://",
        "http://x:99999",
        "http://u@x",
        "http://x/path",
        "http://x?q",
        "a=",
    ],
)
def test_an_upstream_is_an_origin(url: str) -> None:
    """What is no origin is a ValueError that shows it."""
    with pytest.raises(ValueError, match="url must"):
        options.upstreams([url])


def test_two_upstreams_are_two() -> None:
    """The same replica twice is refused."""
    with pytest.raises(ValueError, match="two upstreams are called 'x:1'"):
        options.upstreams(["http://x:1", "http://x:1/"])


@pytest.mark.parametrize(("text", "value"), [("10", 10.0), (" 2.5 ", 2.5), ("0.001", 0.001)])
def test_times(text: str, value: float) -> None:
    """Seconds, or a part of one."""
    assert options.seconds(text) == value


@pytest.mark.parametrize("text", ["", "0", "0.0", "-1", "nan", "inf", "1e3", "1_0", "10s", "9" * 400])
def test_what_is_no_time(text: str) -> None:
    """What cannot be waited for is a ValueError that shows it."""
    with pytest.raises(ValueError, match="a time must be seconds above zero"):
        options.seconds(text)


def test_every_time_is_where_it_is_read() -> None:
    """What is said of times reaches the engine and the front; by default it is what those have."""
    usual, asked = (
        Service(ServeOptions(ONE)),
        Service(
            ServeOptions(
                ONE,
                connect_timeout=1.0,
                first_byte_timeout=2.0,
                read_timeout=3.0,
                total_timeout=4.0,
                tunnel_timeout=5.0,
                header_timeout=6.0,
                body_timeout=7.0,
                write_timeout=8.0,
                least_rate=9.0,
                keep_alive=10.0,
            )
        ),
    )
    assert usual.upstream.timeouts == Timeouts()
    assert usual.limits == FrontLimits()
    assert asked.upstream.timeouts == Timeouts(connect=1.0, first_byte=2.0, read=3.0, total=4.0, tunnel=5.0)
    assert asked.limits == FrontLimits(
        header_time=6.0, body_time=7.0, write_time=8.0, least_rate=9.0, keep_alive=10.0
    )


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:80", ("::1", 80)),
        (":0", ("127.0.0.1", 0)),
        ("example.com:65535", ("example.com", 65535)),
    ],
)
def test_where_to_listen(text: str, address: tuple[str, int]) -> None:
    """HOST:PORT, brackets for IPv6, and loopback where no host is given."""
    assert options.listen(text) == address


@pytest.mark.parametrize("text", ["", "80", "x:", "x:65536", "::1:80", "x:80:90", "http://x:80"])
def test_where_not_to_listen(text: str) -> None:
    """What is no address is a ValueError that shows it."""
    with pytest.raises(ValueError, match="HOST:PORT"):
        options.listen(text)


@pytest.mark.parametrize(
    ("text", "size"), [("4096", 4096), ("1B", 1), ("64MiB", 2**26), ("1.5KiB", 1536), ("10 kB", 10_000)]
)
def test_sizes(text: str, size: int) -> None:
    """Sizes are bytes, with binary and decimal units."""
    assert options.size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "1XB", "0.1", "MiB", "nan", "1e3"])
def test_what_is_no_size(text: str) -> None:
    """What is no size above zero is a ValueError that shows it."""
    with pytest.raises(ValueError, match="a size must be"):
        options.size(text)


@pytest.mark.parametrize(("text", "rate"), [("50/s", 50), ("30/m", 0.5), ("3600/h", 1), ("0.5/s", 0.5)])
def test_rates(text: str, rate: float) -> None:
    """Rates are per second, whatever they were written in."""
    assert options.rate(text) == rate


@pytest.mark.parametrize("text", ["", "50", "0/s", "-1/s", "1/d", "nan/s"])
def test_what_is_no_rate(text: str) -> None:
    """What is no rate above zero is a ValueError that shows it."""
    with pytest.raises(ValueError, match="a rate must be"):
        options.rate(text)


@pytest.mark.parametrize(
    ("text", "prefixes"), [("32,64", (32, 64)), ("0,128", (0, 128)), (" 24,56", (24, 56))]
)
def test_prefixes(text: str, prefixes: tuple[int, int]) -> None:
    """Prefixes are two numbers of bits."""
    assert options.prefixes(text) == prefixes


@pytest.mark.parametrize("text", ["", "32", "33,64", "32,129", "-1,64", "32,64,1", "32;64", "a,b"])
def test_what_are_no_prefixes(text: str) -> None:
    """What no address has is a ValueError that shows it."""
    with pytest.raises(ValueError, match="prefixes must be"):
        options.prefixes(text)


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"replicas": ()}, "a tier needs upstreams, or else a source of members"),
        ({"strategy": "best"}, "strategy must be one of"),
        ({"strategy": "ring-hash"}, "needs an affinity"),
        ({"affinity": "path"}, "needs the strategy ring-hash"),
        ({"strategy": "ring-hash", "affinity": "moon"}, "affinity must be"),
        ({"strategy": "ring-hash", "affinity": "path", "bound": 1.0}, "bound must be"),
        ({"bound": 1.25}, "bound needs"),
        ({"ttl": 10}, "ttl needs a cache"),
        ({"cache_grace": 10}, "cache_grace needs a cache"),
        ({"cache_keep": -1, "cache": 1000}, "keep must be"),
        ({"ttl": -1, "cache": 1000}, "ttl must be"),
        ({"burst": 10}, "burst needs a throttle"),
        ({"throttle_paths": ("/users/{id}",)}, "throttle_paths needs a throttle"),
        ({"ratelimit_fields": True}, "ratelimit_fields needs a throttle"),
        ({"throttle": 10, "throttle_block": -1.0}, "block must not be negative"),
        ({"throttle": 10, "throttle_paths": ("users",)}, "template"),
        ({"purge_from": ("127.0.0.1",)}, "purge_from needs a cache"),
        ({"purge_from": ("moon",), "cache": 1000}, "allowed is to be read as networks"),
        ({"proxy_protocol": True}, "proxy_protocol needs trusted networks"),
        ({"trust_hops": -1}, "hops must be"),
        ({"throttle": 10, "burst": 0.5}, "burst must be"),
        ({"throttle": 10, "burst": 0.0}, "burst must be"),
        ({"throttle": 10, "throttle_by": ("moon",)}, "throttle-by must be"),
        ({"throttle": 10, "throttle_prefixes": (33, 64)}, "ipv4_prefix must be"),
        ({"trusted": ("moon",)}, "trusted must hold"),
        ({"probe": "readyz"}, "path must begin"),
        ({"probe": "/readyz", "probe_period": 0}, "period must be"),
        ({"probe": "/readyz", "probe_timeout": -1}, "timeout must be"),
        ({"connect_timeout": 0.0}, "connect must be"),
        ({"first_byte_timeout": float("nan")}, "first_byte must be"),
        ({"tunnel_timeout": float("inf")}, "tunnel must be"),
        ({"header_timeout": -1.0}, "header_time must be"),
        ({"least_rate": 0.0}, "least_rate must be"),
    ],
)
def test_a_tier_that_cannot_be(asked: dict[str, object], complaint: str) -> None:
    """What cannot work together is refused before anything listens, naming what is wrong."""
    with pytest.raises(ValueError, match=complaint):
        Service(ServeOptions(**{"replicas": ONE, **asked}))  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", ["power-of-two", "round-robin", "least-loaded", "random"])
def test_every_strategy_has_a_name(strategy: str) -> None:
    """Each name builds the tier it promises."""
    service = Service(ServeOptions(ONE, strategy=strategy))
    assert type(service.tier.strategy).__name__.lower().startswith(strategy.replace("-", "")[:6])


TIMES = [
    *["--connect-timeout", "--first-byte-timeout", "--read-timeout", "--total-timeout", "--tunnel-timeout"],
    *["--header-timeout", "--body-timeout", "--write-timeout", "--least-rate", "--keep-alive"],
]


@pytest.mark.parametrize("name", TIMES)
def test_a_time_that_cannot_be_is_refused_by_its_flag(name: str) -> None:
    """One line names the flag and the value, and nothing listens."""
    for wrong in ("0", "-1", "nan", "soon"):
        done = CliRunner().invoke(replicated, ["serve", "--upstream", "http://x", name, wrong])
        assert done.exit_code == 2
        assert f"'{name}'" in done.stderr
        assert repr(wrong) in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_times_by_default_are_those_of_the_parts() -> None:
    """The command line, the options and what they are for agree."""
    defaults = {option.name: option.default for option in replicated.commands["serve"].params}
    found = {name.removeprefix("--").replace("-", "_") for name in TIMES}
    assert {name: getattr(ServeOptions(ONE), name) for name in found} == {
        name: defaults[name] for name in found
    }
