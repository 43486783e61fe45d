"""How the demo's pages look: one inline style sheet, one inline script, and everything escaped.

A page is a function of what it shows and of nothing else: it names no visitor and no replica, so that a
shared cache may hand it to anybody. The exception is the reading history, which no cache keeps.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from urllib.parse import quote

from .modules import Module

__all__ = ["POLICY", "history_page", "home_page", "message_page", "module_page", "search_page"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --soft: #5b6671; --line: #dfe4e8; --paper: #fff;
  --wash: #f4f6f8; --accent: #0b62a8; }
@media (prefers-color-scheme: dark) { :root { --ink: #dde3e9; --soft: #98a4b0; --line: #323a42;
  --paper: #15191d; --wash: #1d2328; --accent: #7cb8f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 54rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
header { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: center;
  border-bottom: 1px solid var(--line); padding-bottom: .75rem; }
header form { flex: 1 1 16rem; display: flex; gap: .5rem; }
input { flex: 1; min-width: 0; }
input, button { font: inherit; color: inherit; padding: .4rem .7rem; border: 1px solid var(--line);
  border-radius: .4rem; background: var(--wash); }
a { color: var(--accent); text-decoration-thickness: 1px; text-underline-offset: .15em; }
a:not([href]) { color: inherit; }
header > a { font-weight: 600; text-decoration: none; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 1.2rem 0 .6rem; }
h2 { font-size: 1.1rem; margin: 1.6rem 0 .5rem; padding-top: .6rem; border-top: 1px solid var(--line); }
ul { padding-left: 1.2rem; }
ul.columns, ul.list { list-style: none; padding: 0; }
ul.columns { columns: 11rem; }
ul.list > li { padding: .45rem 0; border-bottom: 1px solid var(--line); }
small, .soft { color: var(--soft); }
dl { margin: .4rem 0; }
dt { font-family: ui-monospace, monospace; font-size: .9rem; }
dd { margin: .1rem 0 .6rem 1rem; }
.code { white-space: pre-wrap; font: .875rem/1.5 ui-monospace, monospace; }
section section { padding-left: .8rem; border-left: 3px solid var(--line); }
.grey { color: var(--soft); }
hr { border: 0; border-top: 1px dashed var(--line); }
"""

# What is being read stands beside the script, not in it: a policy that names the script by its hash lets
# cached pages share one policy, while a nonce in a cached page would be known to everybody.
_SCRIPT = """
const page = document.currentScript.dataset.page;
fetch("/history?page=" + encodeURIComponent(page), {method: "POST", keepalive: true}).catch(() => {});
"""


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; style-src {_source(_STYLE)}; script-src {_source(_SCRIPT)}; connect-src 'self'; "
    "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of every page: the one style sheet and the one script, and nothing else."""


def home_page(modules: Sequence[Module], version: str) -> str:
    """Return the first page: what this is, and every top-level module."""
    top = "".join(f"<li>{_link(module.name)}</li>\n" for module in modules if "." not in module.name)
    return _page(
        "Python documentation",
        f"<h1>Python {escape(version)}, documented</h1>\n"
        f"<p>{len(modules)} modules of this installation, as pydoc sees them.</p>\n"
        f'<ul class="columns">\n{top}</ul>\n',
    )


def search_page(query: str, found: Sequence[Module], most: int) -> str:
    """Return the best ``most`` of what was found for ``query``."""
    count = f"{len(found)} {'module' if len(found) == 1 else 'modules'}"
    more = f", the best {most} shown" if len(found) > most else ""
    rows = "".join(
        f"<li>{_link(module.name)}<br><small>{escape(module.synopsis)}</small></li>\n"
        for module in found[:most]
    )
    body = f'<h1>{escape(query)}</h1>\n<p class="soft">{count}{more}</p>\n<ul class="list">\n{rows}</ul>\n'
    return _page(f"{query} - search" if query else "Search", body, query=query)


def module_page(name: str, fragment: str) -> str:
    """Return the page of a module around its documentation, which is HTML already."""
    script = f'<script data-page="{escape(name)}">{_SCRIPT}</script>\n'
    return _page(name, fragment, end=script)


def history_page(visits: Iterable[tuple[str, float]], replica_id: str, kept: bool = True) -> str:
    """Return what a visitor has read, the newest first, and on which replica that is known.

    Args:
        visits: Names of modules, and the seconds since each was read.
        replica_id: The replica that remembers.
        kept: Whether the visitor's browser sends the cookie back that a history needs.
    """
    rows = "".join(f"<li>{_link(name)} <small>{_ago(age)}</small></li>\n" for name, age in visits)
    where = f"Known to replica <strong>{escape(replica_id)}</strong> alone, in its memory."
    if not kept:
        where = "Your browser keeps no cookies, so there is no history."
    nothing = "<p>Nothing read yet.</p>\n" if kept and not rows else ""
    return _page("History", f'<h1>History</h1>\n<p>{where}</p>\n{nothing}<ul class="list">\n{rows}</ul>\n')


def message_page(title: str, text: str) -> str:
    """Return a page that says one thing."""
    return _page(title, f"<h1>{escape(title)}</h1>\n<p>{escape(text)}</p>\n")


def _link(name: str) -> str:
    return f'<a href="/module/{quote(name)}">{escape(name)}</a>'


def _ago(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return "just now"


def _page(title: str, body: str, *, query: str = "", end: str = "") -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<header>
<a href="/">Python docs</a>
<form action="/search" role="search">
<input type="search" name="q" value="{escape(query)}" placeholder="json, http server"
 aria-label="Search modules">
<button>Search</button>
</form>
<a href="/history">History</a>
</header>
<main>
{body}</main>
{end}</body>
</html>
"""
