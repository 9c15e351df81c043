"""The ngrok agent: start it with a tunnel that asks for a password, explain its errors, end it.

Runs inside `support.dashboard.guard`. The token reaches the agent through its environment and the password through
its API on this machine, so that neither is in a file, a log or the list of processes.
"""

import contextlib
import json
import logging
import os
import re
import threading
from pathlib import Path

import psutil

START_TIMEOUT = 20  # seconds for the agent to connect to ngrok's cloud

REMEDIES = {
    "ERR_NGROK_4018": "ngrok wants an authtoken. Get one at https://dashboard.ngrok.com/get-started/"
    "your-authtoken and set it as NGROK_AUTHTOKEN.",
    "ERR_NGROK_105": "ngrok does not accept the authtoken: it does not look like one. Copy it again from "
    "https://dashboard.ngrok.com/get-started/your-authtoken into NGROK_AUTHTOKEN.",
    "ERR_NGROK_107": "ngrok does not accept the authtoken: it was revoked, or is of no account. Copy the "
    "present one from https://dashboard.ngrok.com/get-started/your-authtoken into NGROK_AUTHTOKEN.",
    "ERR_NGROK_108": "this ngrok account has as many agents running as it may. Stop one at "
    "https://dashboard.ngrok.com/agents, or close the other notebook's dashboard.",
    "ERR_NGROK_121": "the ngrok agent on this machine is too old. Run `ngrok update`.",
    "ERR_NGROK_334": "this account's ngrok address is in use by another tunnel. Close that one first: "
    "https://dashboard.ngrok.com/endpoints shows it.",
    "ERR_NGROK_725": "this account has used up its ngrok traffic for the month. Wait, or look at the "
    "local dashboard or the report.",
    "ERR_NGROK_3200": "the tunnel is gone: ngrok no longer knows its address. Call dashboard.open() again.",
}


class TunnelError(RuntimeError):
    """The tunnel cannot be opened, or is not as safe as it must be; says why and what to do."""


def explain(text: str, secrets: tuple[str, ...] = ()) -> TunnelError:
    """Turn what ngrok says into a sentence and a remedy. No one of `secrets` appears in it."""
    for code in re.findall(r"ERR_NGROK_\d+", text):
        if code in REMEDIES:
            return TunnelError(f"{REMEDIES[code]} ({code})")
    for secret in secrets:
        text = text.replace(secret, "...")
    return TunnelError(f"ngrok says: {' '.join(text.split())}")


def start(port: int, token: str, user: str, password: str, config: Path) -> tuple[str, psutil.Process]:
    """Open a tunnel to `port` of this machine and give its public URL and the agent's process.

    ngrok's edge asks everyone for `user` and `password`. `config` is where the agent's own configuration
    goes; it holds no secret, and marks the agent as ours (see `kill_agents`). The reader's own ngrok.yml is
    not read, so that nothing in it can weaken the tunnel. Raises TunnelError.
    """
    from pyngrok import conf, exception, ngrok

    logging.getLogger("pyngrok").propagate = False  # the agent's log repeats a token that it refuses
    logging.getLogger("pyngrok").addHandler(logging.NullHandler())
    # inspect_db_size -1: the agent keeps no copy of the requests, passwords included, for its own web page.
    config.write_text(json.dumps({"version": "3", "agent": {"inspect_db_size": -1}}))
    settings = conf.PyngrokConfig(config_path=str(config), request_timeout=START_TIMEOUT)
    settings.auth_token = None  # pyngrok would put it on the agent's command line
    policy = {"type": "basic-auth", "config": {"credentials": [f"{user}:{password}"], "enforce": True}}
    os.environ["NGROK_AUTHTOKEN"] = token
    too_late = threading.Timer(START_TIMEOUT, kill_agents, [config])  # pyngrok waits for ever for a line
    too_late.daemon = True
    too_late.start()
    try:
        ngrok.install_ngrok(settings)
        tunnel = ngrok.connect(
            f"http://127.0.0.1:{port}",
            name="dashboard",
            pyngrok_config=settings,
            traffic_policy={"on_http_request": [{"actions": [policy]}]},
        )
        agent = psutil.Process(ngrok.get_ngrok_process(settings).proc.pid)
    except exception.PyngrokNgrokInstallError as error:
        raise TunnelError(
            "the ngrok agent is not on this machine and cannot be downloaded. Install it from "
            f"https://ngrok.com/download and set PYNGROK_NGROK_PATH to it. ({error})"
        ) from error
    except exception.PyngrokError as error:
        stop(config)
        if not too_late.is_alive():
            raise TunnelError(
                f"the ngrok agent found no way to ngrok's cloud in {START_TIMEOUT} s. Is there a "
                "network, and does a firewall let connect.ngrok-agent.com through?"
            ) from error
        said = [
            str(error),
            getattr(error, "body", ""),
            *(log.line for log in getattr(error, "ngrok_logs", [])),
        ]
        raise explain("\n".join(said), (token, password)) from error
    except (OSError, psutil.NoSuchProcess) as error:
        stop(config)
        raise TunnelError(
            f"the ngrok agent cannot be started ({error}). Install it from "
            "https://ngrok.com/download and set PYNGROK_NGROK_PATH to it."
        ) from error
    finally:
        too_late.cancel()
        del os.environ["NGROK_AUTHTOKEN"]
    if not str(tunnel.public_url).startswith("https://"):
        stop(config)
        raise TunnelError("ngrok gave an address without encryption, which would show the password. Try again.")
    return tunnel.public_url, agent


def stop(config: Path) -> None:
    """End the agent that was started with `config`, and with it the tunnel; forget the configuration."""
    kill_agents(config)
    config.unlink(missing_ok=True)


def kill_agents(config: Path) -> None:
    """Kill every process that was started with `config`: our agents, whoever their parent is by now."""
    for process in psutil.process_iter(["cmdline"]):
        if str(config) in (process.info["cmdline"] or []):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
