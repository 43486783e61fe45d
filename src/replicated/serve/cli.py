"""The command line: what is wrong with it is one line and status 2."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import click

from .ring_command import ring
from .serve_command import serve
from .simulate_command import simulate
from .up.command import up

__all__ = ["replicated"]


class OneLine(click.Group):
    """Says what is wrong in one line, without usage or traceback; the status is 2."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and exit."""
        try:
            status = super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            sys.exit(2)
        except click.ClickException as error:
            click.echo(f"replicated: {error.format_message()}", err=True)
            sys.exit(2)
        except (click.Abort, KeyboardInterrupt):
            sys.exit(130)
        sys.exit(status)


@click.group(cls=OneLine, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="replicated-tier")
def replicated() -> None:
    """Run replicas behind a balancer: readiness, consistent hashing, a cache, a throttle, TLS."""


@replicated.command(short_help="Three tiers on loopback, and proof that the pattern holds.")
@click.option("--keep", is_flag=True, help="Leave it running at the end, and print the URLs.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where everything listens.")
def demo(keep: bool, host: str) -> None:
    """Run three tiers on loopback and prove the pattern with live traffic, in under a minute."""
    from rich.console import Console

    from .demo.run import demo as run

    raise SystemExit(asyncio.run(run(Console(), host=host, keep=keep)))


replicated.add_command(ring)
replicated.add_command(serve)
replicated.add_command(simulate)
replicated.add_command(up)
