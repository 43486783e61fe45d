"""What a stack file says, and one sentence where it cannot be."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from replicated.serve.up.stack import read_stack

THREE_TIERS = """
[edge]
upstream = "cache"
port = 8443
host = "::1"
tls-self-signed = true

[cache]
upstream = "app"
replicas = 2
port = 9101
cache = "64MiB"
ttl = 10
throttle-shadow = false
trust = ["10.0.0.0/8", "::1"]

[app]
command = "serve-it --at {host}:{port} --name '{name}' '{\\"a\\": {other}}'"
replicas = 3
port = 9001
probe = "/healthy"
environment = { MODE = "test" }
stop = 5
"""


def test_a_stack_is_its_tiers_from_behind_to_front() -> None:
    """Each tier comes after the one behind it, whatever the order in the file."""
    stack = read_stack(THREE_TIERS)
    assert list(stack.tiers) == ["app", "cache", "edge"]
    assert [tier.name for tier in stack.before("app")] == ["cache"]
    assert [stack.tiers["app"].numbered(n) for n in (1, 3)] == [
        ("app-1", "http://127.0.0.1:9001"),
        ("app-3", "http://127.0.0.1:9003"),
    ]
    assert stack.tiers["edge"].numbered(1) == ("edge-1", "https://[::1]:8443")


def test_a_command_is_told_where_to_listen() -> None:
    """By what stands in braces, and by variables; other braces are the command's own."""
    stack = read_stack(THREE_TIERS)
    process = stack.process(stack.tiers["app"], 2, Path("/run"))
    assert process.command[:3] == (sys.executable, "-m", "replicated.serve.leash")
    words = ("serve-it", "--at", "127.0.0.1:9002", "--name", "app-2", '{"a": {other}}')
    assert process.command[3:] == words
    assert process.environment == {"MODE": "test", "HOST": "127.0.0.1", "PORT": "9002", "REPLICA": "app-2"}


def test_a_tier_of_ours_learns_its_members_and_their_probe() -> None:
    """What follows from the stack is said for it: where it listens, its name, who is behind it."""
    stack = read_stack(THREE_TIERS)
    cache = " ".join(stack.process(stack.tiers["cache"], 2, Path("/run")).command[3:])
    assert cache == (
        "serve --listen 127.0.0.1:9102 --name cache-2 --members /run/app.members --probe /healthy"
        " --cache 64MiB --ttl 10 --trust 10.0.0.0/8 --trust ::1"
    )
    edge = stack.process(stack.tiers["edge"], 1, Path("/run")).command
    assert "--listen [::1]:8443" in " ".join(edge)
    assert edge[edge.index("--probe") + 1] == "/readyz"


APP = '[app]\ncommand = "x"\nport = 9001\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "at least one tier"),
        ("app = 3", "app: a tier must be a table"),
        ("[app", "Expected"),
        ('["a b"]\nport = 1', "a tier's name must"),
        ("[app]\nport = 1", "app: a tier must have a command or an upstream"),
        (APP + 'upstream = "app"', "and not both"),
        ('[app]\ncommand = "x"', "app: port must be an integer from 1 to 65535, not None"),
        ('[app]\ncommand = "x"\nport = true', "app: port must be an integer"),
        ('[app]\ncommand = "x"\nport = 65535\nreplicas = 2', "app: port 65535 has no 1 ports after it"),
        (APP + "replicas = 0", "app: replicas must be an integer from 1 to 1000, not 0"),
        ('[app]\ncommand = "x \'"\nport = 1', "app: command cannot be read: No closing quotation"),
        ("[app]\ncommand = []\nport = 1", "app: command must be a text or a list of texts"),
        ("[app]\ncommand = [1]\nport = 1", "app: command must be"),
        (APP + "ttl = 10", "app: a tier with a command has no 'ttl'"),
        (APP + 'probe = "readyz"', "app: probe must be a path"),
        (APP + "host = 1", "app: host must be a text"),
        (APP + "stop = -1", "app: stop must be seconds"),
        (APP + "environment = { A = 1 }", "app: environment must be a table of texts"),
        (APP + '[c]\nupstream = "db"\nport = 1', "c: upstream must be one of the tiers, not 'db'"),
        (APP + '[c]\nupstream = "app"\nport = 9001', "c: port 9001 is one of app's"),
        (APP + '[c]\nupstream = "app"\nport = 1\nlisten = ":1"', "c: listen follows from the stack"),
        (APP + '[c]\nupstream = "app"\nport = 1\nprobe = "/x"', "c: probe belongs to the tier"),
        (APP + '[c]\nupstream = "app"\nport = 1\nttl = {}', "c: ttl must be a text, a number, true"),
        (APP + '[c]\nupstream = "app"\nport = 1\nwhat = 3', "c: No such option"),
        (APP + '[c]\nupstream = "app"\nport = 1\ncache = "many"', "c: .*a size must be"),
        ('[a]\nupstream = "b"\nport = 1\n[b]\nupstream = "a"\nport = 2', "a, b stand in a circle"),
    ],
)
def test_what_cannot_be_is_one_sentence(text: str, says: str) -> None:
    """A stack that cannot run is a ValueError that names the tier and the key."""
    with pytest.raises(ValueError, match=says) as raised:
        read_stack(text)
    assert "\n" not in str(raised.value)
