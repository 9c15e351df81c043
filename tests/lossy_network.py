"""A network that loses answers: of each kind of writing request, the first on its way back."""

import http.client
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Relay(BaseHTTPRequestHandler):
    """Passes a request on; of each kind of writing request the first answer is lost on its way back."""

    protocol_version = "HTTP/1.1"
    server_url: str
    asked: Counter

    def body(self) -> bytes:
        """Read what is sent. An empty file comes in chunks, of which there is none: a line that says 0."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def relay(self) -> None:
        body = self.body()
        there = http.client.HTTPConnection(urlsplit(self.server_url).netloc, timeout=60)
        left_out = ("host", "transfer-encoding", "content-length")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in left_out}
        there.request(self.command, self.path, body, headers)
        answer = there.getresponse()
        content = answer.read()
        there.close()
        kind = f"{self.command} {urlsplit(self.path).path.rpartition('/artifacts')[0] or self.path}"
        self.asked[kind] += 1
        if self.command != "GET" and self.asked[kind] == 1 and not self.path.endswith("search"):
            self.close_connection = True
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = relay

    def log_message(self, *_) -> None:
        pass


@contextmanager
def lossy_network(url: str):
    """Yield an address that leads to `url`, and what was asked there: kind of request -> times."""
    handler = type("Handler", (Relay,), {"server_url": url, "asked": Counter()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as relay:
        threading.Thread(target=relay.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{relay.server_port}", handler.asked
        relay.shutdown()
