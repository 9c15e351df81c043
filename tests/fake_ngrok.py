"""A stand-in for the ngrok agent and ngrok's cloud, as one program.

It answers pyngrok as the agent does: the log lines on standard output, the API on localhost. And it really
forwards: an HTTPS server on 127.0.0.1 plays ngrok's edge, asks for the password of the endpoint's traffic
policy, and passes requests on with the public host name in the Host header.

The token says what goes wrong. `good` works; a number such as `108` is refused as ERR_NGROK_108 at login;
`334` when the endpoint opens; `silent` never says a word; `unlocked` forgets the password; `http` gives an
address without encryption; `rewrite` changes the Host header on the way. SIGUSR1 makes the tunnel vanish, as
when the agent's session ends: the edge then says ERR_NGROK_3200.

FAKE_NGROK_CERT names a PEM file with the certificate and key of the edge.
"""

import base64
import http.client
import json
import os
import signal
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOST = "lesson-under-test.ngrok-free.app"
VISITED = "abuse_interstitial"
TOKEN = os.environ.get("NGROK_AUTHTOKEN", "")
MESSAGES = {
    "4018": "authentication failed: Usage of ngrok requires a verified account and authtoken.",
    "105": "authentication failed: The authtoken you specified does not look like a proper ngrok tunnel "
    "authtoken.\\nYour authtoken: " + TOKEN,
    "107": "authentication failed: The authtoken you specified is properly formed, but it is invalid.\\n"
    "Your authtoken: " + TOKEN,
    "108": "authentication failed: Your account is limited to 1 simultaneous ngrok agent sessions.",
}
endpoint: dict = {}


def log(text: str) -> None:
    print(f"t={time.strftime('%Y-%m-%dT%H:%M:%S+0000')} {text}", flush=True)


class Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status: int, body: bytes, headers: dict) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))


class Agent(Quiet):
    """The agent's API, as far as pyngrok uses it."""

    def reply(self, status: int, what: dict) -> None:
        self.answer(status, json.dumps(what).encode(), {"Content-Type": "application/json"})

    def do_GET(self) -> None:
        self.reply(200, {"endpoints": [endpoint] if endpoint else []})

    def do_POST(self) -> None:
        wanted = json.loads(self.body())
        if TOKEN == "334":
            error = "failed to start tunnel: The endpoint is already online.\n\nERR_NGROK_334\n"
            self.reply(502, {"error_code": 103, "msg": "failed to start tunnel", "details": {"err": error}})
            return
        actions = wanted["traffic_policy"]["on_http_request"][0]["actions"]
        login = next(a["config"]["credentials"][0] for a in actions if a["type"] == "basic-auth")
        assert 8 <= len(login.partition(":")[2]) <= 128, "as ngrok's traffic policy wants"
        edge = ThreadingHTTPServer(("127.0.0.1", 0), Edge)
        if TOKEN != "http":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(os.environ["FAKE_NGROK_CERT"])
            edge.socket = context.wrap_socket(edge.socket, server_side=True, do_handshake_on_connect=False)
        edge.daemon_threads = True
        edge.login = "" if TOKEN == "unlocked" else "Basic " + base64.b64encode(login.encode()).decode()
        edge.upstream = wanted["upstream"]["url"].removeprefix("http://")
        threading.Thread(target=edge.serve_forever, daemon=True).start()
        scheme = "http" if TOKEN == "http" else "https"
        endpoint.update(
            name=wanted["name"],
            url=f"{scheme}://{HOST}:{edge.server_address[1]}",
            upstream=wanted["upstream"],
        )
        self.reply(201, endpoint)


class Edge(Quiet):
    """ngrok's edge: asks for the password, shows browsers a warning first, and forwards."""

    def do_GET(self) -> None:
        body = self.body()
        if not endpoint:
            self.say(404, "The endpoint is offline. ERR_NGROK_3200", {"ngrok-error-code": "ERR_NGROK_3200"})
        elif self.server.login and self.headers.get("Authorization") != self.server.login:
            self.say(401, "Unauthorized", {"WWW-Authenticate": 'Basic realm="ngrok"'})
        elif self.warns():
            page = (
                "<html><body>You are about to visit a site served through ngrok."
                f"<button onclick=\"document.cookie='{VISITED}=1';location.reload()\">Visit Site</button>"
                "</body></html>"
            )
            self.say(200, page, {"Content-Type": "text/html"})
        else:
            self.forward(body)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_HEAD = do_GET

    def say(self, status: int, text: str, headers: dict) -> None:
        self.answer(status, text.encode(), headers)

    def warns(self) -> bool:
        browser = "Mozilla" in self.headers.get("User-Agent", "") and "text/html" in self.headers.get("Accept", "")
        return (
            browser
            and "ngrok-skip-browser-warning" not in self.headers
            and VISITED not in self.headers.get("Cookie", "")
        )

    def forward(self, body: bytes) -> None:
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        headers |= {
            "X-Forwarded-For": "203.0.113.7",
            "X-Forwarded-Proto": "https",
            "Accept-Encoding": "identity",
        }
        if TOKEN == "rewrite":
            headers["Host"] = "elsewhere.example"
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=30)
        try:
            upstream.request(self.command, self.path, body or None, headers)
            answer = upstream.getresponse()
            content = answer.read()
        except OSError:
            self.say(502, "ERR_NGROK_8012", {"ngrok-error-code": "ERR_NGROK_8012"})
            return
        finally:
            upstream.close()
        skip = {"transfer-encoding", "content-length", "connection", "date", "server"}
        self.answer(
            answer.status,
            content,
            {name: value for name, value in answer.getheaders() if name.lower() not in skip},
        )


def main() -> None:
    assert sys.argv[1:3] == ["start", "--none"] and "--config" in sys.argv, sys.argv
    assert "--authtoken" not in sys.argv, "a token on the command line is in the list of processes"
    if TOKEN == "silent":
        time.sleep(600)
    api = ThreadingHTTPServer(("127.0.0.1", 0), Agent)
    log(f'lvl=info msg="starting web service" obj=web addr=127.0.0.1:{api.server_address[1]} allow_hosts=[]')
    code = TOKEN or "4018"
    if code in MESSAGES:
        error = rf"{MESSAGES[code]}\n\nERR_NGROK_{code}\n"
        log(f'lvl=eror msg="failed to auth" obj=tunnels.session err="{error}"')
        log(f'lvl=eror msg="terminating with error" obj=app err="{error}"')
        print(f"ERROR:  {error}", file=sys.stderr, flush=True)
        sys.exit(1)
    log('lvl=info msg="client session established" obj=tunnels.session')
    log('lvl=info msg="tunnel session started" obj=tunnels.session')
    signal.signal(signal.SIGUSR1, lambda *_: endpoint.clear())
    api.serve_forever()


if __name__ == "__main__":
    main()
