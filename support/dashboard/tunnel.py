"""ngrok's agent: start it with a tunnel that asks for a password, explain its errors, end it.

The server starts it as its child. Linux ends it with the server, however that dies. Elsewhere the server ends
it, and after a server that was killed the next `dashboard.open` does. The token reaches the agent through its
environment, the password through its API on this machine: neither is in a file, a log or a list of processes.
"""

import contextlib
import json
import logging
import os
import re
import subprocess
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil

from support.dashboard import lease

START_TIMEOUT = 20  # seconds for the agent to connect to ngrok's cloud
INSTALL = "Install it from https://ngrok.com/download and set PYNGROK_NGROK_PATH to it."
TOKEN = "Copy the present one from https://dashboard.ngrok.com/get-started/your-authtoken into NGROK_AUTHTOKEN."
ABOUT_THE_TOKEN = {"ERR_NGROK_105", "ERR_NGROK_107", "ERR_NGROK_4018"}


class TunnelError(RuntimeError):
    """The tunnel cannot be opened, or is not as safe as it must be; says why and what to do."""


def explain(text: str, secrets: tuple[str, ...] = ()) -> TunnelError:
    """Return what ngrok says as an error, with what to do. None of `secrets` appears in it."""
    code = re.search(r"ERR_NGROK_\d+", text)
    do = f"See https://ngrok.com/docs/errors/{code[0].lower()}." if code else ""
    do = TOKEN if code and code[0] in ABOUT_THE_TOKEN else do
    for secret in secrets:
        text = text.replace(secret, "...")
    text = " ".join(text.replace("\\n", " ").split())  # the agent's log writes the end of a line as \n
    return TunnelError(f"ngrok says: {text} {do}")


def start(port: int, token: str, user: str, password: str, config: Path) -> str:
    """Open a tunnel to `port` of this machine and return its public URL. Raise TunnelError.

    ngrok's edge asks everyone for `user` and `password`. `config` is the file for the agent's configuration:
    it holds no secret, and marks the agent as ours (see `stop`). The reader's own ngrok.yml is not read, so
    that nothing in it can weaken the tunnel. Call it from the main thread, see `lease.ends_with_parent`.
    """
    from pyngrok import conf, exception, ngrok, process

    # pyngrok passes no options on to Popen. Checked with pyngrok 9.1, and by the tests that kill the server.
    tied = partial(subprocess.Popen, **lease.ends_with_parent())
    process.subprocess = SimpleNamespace(Popen=tied, PIPE=subprocess.PIPE)
    logging.getLogger("pyngrok").propagate = False  # the agent's log repeats a token that it refuses
    logging.getLogger("pyngrok").addHandler(logging.NullHandler())
    # inspect_db_size -1: the agent keeps no copy of the requests, passwords included, for its own web page.
    config.write_text(json.dumps({"version": "3", "agent": {"inspect_db_size": -1}}))
    settings = conf.PyngrokConfig(config_path=str(config), request_timeout=START_TIMEOUT)
    settings.auth_token = None  # pyngrok would put it on the agent's command line
    policy = {"type": "basic-auth", "config": {"credentials": [f"{user}:{password}"], "enforce": True}}
    policies = {"on_http_request": [{"actions": [policy]}]}
    too_late = threading.Timer(START_TIMEOUT, stop, [config])  # pyngrok waits for ever for a line
    os.environ["NGROK_AUTHTOKEN"] = token
    try:
        ngrok.install_ngrok(settings)
        deadline = time.monotonic() + START_TIMEOUT
        too_late.start()
        upstream = f"http://127.0.0.1:{port}"
        url = ngrok.connect(upstream, pyngrok_config=settings, name="dashboard", traffic_policy=policies).public_url
    except (exception.PyngrokNgrokInstallError, OSError) as error:
        raise TunnelError(f"the ngrok agent is not to be had or does not start ({error}). {INSTALL}") from error
    except exception.PyngrokError as error:
        if time.monotonic() > deadline:
            raise TunnelError(
                f"the ngrok agent found no way to ngrok's cloud in {START_TIMEOUT} s. Is there a "
                "network, and does a firewall let connect.ngrok-agent.com through?"
            ) from error
        said = getattr(error, "ngrok_error", None) or getattr(error, "body", None) or str(error)
        raise explain(said, (token, password)) from error
    finally:
        too_late.cancel()
        del os.environ["NGROK_AUTHTOKEN"]
    if not str(url).startswith("https://"):
        raise TunnelError("ngrok gave an address without encryption, which would show the password. Try again.")
    return url


def stop(config: Path) -> None:
    """End every agent that was started with `config`, and with it the tunnel; remove the configuration."""
    if config.exists():
        for process in psutil.process_iter(["cmdline"]):
            if str(config) in (process.info["cmdline"] or []):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        config.unlink(missing_ok=True)
