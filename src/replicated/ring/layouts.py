"""The layouts by name: ``HashRing(nodes, layout=layouts.nginx())``.

It decides only what they are called.
"""

from __future__ import annotations

from .ketama import Libketama as libketama
from .ketama import Libmemcached as libmemcached
from .ketama import Twemproxy as twemproxy
from .layout import Xxh3 as xxh3
from .proxies import Envoy as envoy
from .proxies import Grpc as grpc
from .proxies import HAProxy as haproxy
from .proxies import Nginx as nginx
from .proxies import Pingora as pingora
from .proxies import Varnish as varnish

__all__ = [
    "envoy",
    "grpc",
    "haproxy",
    "libketama",
    "libmemcached",
    "nginx",
    "pingora",
    "twemproxy",
    "varnish",
    "xxh3",
]
