"""Run the public HTTP caching conformance suite against `replicated serve --cache` on loopback.

    git clone https://github.com/http-tests/cache-tests && (cd cache-tests && npm install --ignore-scripts)
    python benchmarks/conformance_http_cache.py cache-tests

Takes about a minute, needs node, and exits with 1 when a required test fails that is not known to.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

KNOWN = {
    "headers-store-Set-Cookie": "a response that sets a cookie is one user's: it is never stored",
    "headers-store-Transfer-Encoding": "length and transfer coding at once: the end is in doubt, hence a 502",
}
KINDS = """
import tests from %s
const rows = tests.flatMap(suite => suite.tests).filter(test => !test.browser_only)
console.log(JSON.stringify(Object.fromEntries(rows.map(test => [test.id, test.kind || 'required']))))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_port(port: int, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("localhost", port), 1).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


def kinds(suite: Path) -> dict[str, str]:
    source = KINDS % json.dumps(str(suite / "tests" / "index.mjs"))
    command = ["node", "--input-type=module", "--eval", source]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def results(suite: Path) -> dict[str, object]:
    engine = suite / "test-engine"
    engine = engine if engine.is_dir() else suite  # the package on npm has no folder of its own for it
    origin, front = free_port(), free_port()
    settings = {"protocol": "http", "port": str(origin), "pidfile": os.devnull}
    settings |= {"base": f"http://127.0.0.1:{front}", "id": ""}
    environment = os.environ | {f"npm_package_config_{name}": value for name, value in settings.items()}
    serve = [sys.executable, "-m", "replicated", "serve", "--cache", "64MiB"]
    serve += ["--upstream", f"http://localhost:{origin}", "--listen", f"127.0.0.1:{front}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = [
        subprocess.Popen(["node", engine / "server" / "server.mjs"], cwd=suite, env=environment, **quiet),
        subprocess.Popen(serve, **quiet),
    ]
    try:
        await_port(origin)
        await_port(front)
        command = ["node", "--no-warnings", engine / "cli.mjs"]
        done = subprocess.run(
            command, cwd=suite, env=environment, check=True, capture_output=True, text=True, timeout=600
        )
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    return dict(json.loads(done.stdout))


def main(suite: Path) -> int:
    kind, result = kinds(suite), results(suite)
    unexpected = 0
    for wanted in ("required", "optimal", "check"):
        ids = [name for name in kind if kind[name] == wanted]
        failed = [name for name in ids if result.get(name) is not True]
        print(f"{wanted}: {len(ids) - len(failed)} of {len(ids)}")
        if wanted == "check":
            continue
        for name in failed:
            reason = KNOWN.get(name) or str(result.get(name))
            print(f"  {name}: {reason}")
            unexpected += wanted == "required" and name not in KNOWN
    return 1 if unexpected else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]).resolve()))
