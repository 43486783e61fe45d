"""HTTP/2 at the edge: the application of the page on proxies, on the servers of the page on the edge."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

PAGES = Path(__file__).parents[2] / "docs" / "how-to"


@pytest.mark.parametrize("server", ["hypercorn", "granian"])
def test_http2(server: str, tmp_path: Path, recorder: Any) -> None:
    """A client of HTTP/2 is answered over it; the replica is asked once, and learns that it was https."""
    pytest.importorskip("h2")
    program = shutil.which(server, path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip(f"{server} is not installed")
    authority = trustme.CA()
    made = authority.issue_cert("localhost")
    made.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    made.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    [application] = re.findall(
        r'```python title="proxy.py"\n(.*?)```', (PAGES / "proxy.md").read_text(), re.DOTALL
    )
    application = re.sub(r"ports = .*", f"ports = {{'a': {recorder.url.rpartition(':')[2]}}}", application)
    (tmp_path / "proxy.py").write_text(application)
    [line] = re.findall(rf"^{server} (.*)$", (PAGES / "edge.md").read_text(), re.MULTILINE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    output = (tmp_path / "output").open("wb")
    process = subprocess.Popen(
        [program, *line.replace("8443", str(port)).split()], cwd=tmp_path, stdout=output, stderr=output
    )
    try:
        deadline = time.monotonic() + 20
        while True:
            assert time.monotonic() < deadline, (tmp_path / "output").read_text()
            assert process.poll() is None, (tmp_path / "output").read_text()
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        with httpx.Client(base_url=f"https://localhost:{port}", http2=True, verify=trust) as client:
            while client.get("/warm").status_code != 200:
                assert time.monotonic() < deadline, (tmp_path / "output").read_text()
                time.sleep(0.05)
            recorder.forget()
            answer = client.post("/a%2Fb?c=%20d", content=b"hello", headers={"x-forwarded-for": "6.6.6.6"})
            assert (answer.status_code, answer.http_version, answer.text) == (200, "HTTP/2", "ok")
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(15)
        output.close()
    assert recorder.faults == []
    [seen] = [one for one in recorder.seen if one.target != b"/readyz"]
    assert (seen.method, seen.target, seen.body) == (b"POST", b"/a%2Fb?c=%20d", b"hello")
    assert seen.header(b"host") == [b"localhost:%d" % port]
    assert seen.header(b"x-forwarded-proto") == [b"https"]
    assert seen.header(b"x-forwarded-for") == [b"127.0.0.1"]
