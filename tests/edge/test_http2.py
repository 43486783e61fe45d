"""HTTP/2 at the edge: the application of the page on proxies, on the servers of the page on the edge."""

from __future__ import annotations

import re
import shutil
import ssl
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

PAGES = Path(__file__).parents[2] / "docs" / "how-to"


@pytest.mark.parametrize("server", ["hypercorn", "granian"])
def test_http2(server: str, tmp_path: Path, recorder: Any, program: Any) -> None:
    """A client of HTTP/2 is answered over it; the replica is asked once, and learns that it was https."""
    pytest.importorskip("h2")
    found = shutil.which(server, path=str(Path(sys.executable).parent))
    if found is None:
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
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    port = program(lambda port: [found, *line.replace("8443", str(port)).split()])
    deadline = time.monotonic() + 20
    with httpx.Client(base_url=f"https://localhost:{port}", http2=True, verify=trust) as client:
        while client.get("/warm").status_code != 200:
            assert time.monotonic() < deadline, (tmp_path / "output").read_text()
            time.sleep(0.05)
        recorder.forget()
        answer = client.post("/a%2Fb?c=%20d", content=b"hello", headers={"x-forwarded-for": "6.6.6.6"})
        assert (answer.status_code, answer.http_version, answer.text) == (200, "HTTP/2", "ok")
    assert recorder.faults == []
    [seen] = [one for one in recorder.seen if one.target != b"/readyz"]
    assert (seen.method, seen.target, seen.body) == (b"POST", b"/a%2Fb?c=%20d", b"hello")
    assert seen.header(b"host") == [b"localhost:%d" % port]
    assert seen.header(b"x-forwarded-proto") == [b"https"]
    assert seen.header(b"x-forwarded-for") == [b"127.0.0.1"]
