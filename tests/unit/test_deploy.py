"""The files of deploy/: what restarts and is checked, where secrets come from, which versions run."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


@pytest.fixture(scope="module")
def services() -> dict:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]


def test_services_restart_are_checked_and_only_the_proxy_is_seen(services):
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]
    for name, service in services.items():
        assert name == "bucket" or (service["restart"] == "unless-stopped" and service["healthcheck"])
        for needed, how in service.get("depends_on", {}).items():
            finishes = how["condition"] == "service_completed_successfully"
            assert finishes or "healthcheck" in services[needed]


def test_every_secret_comes_from_the_env_file_which_git_leaves_alone():
    text = (DEPLOY / "compose.yaml").read_text()
    for line in text.splitlines():
        if re.search(r"(PASSWORD|SECRET|KEY)\w*:", line):
            assert "${" in line and ":?" in line, line
    template = dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / ".env.example").read_text(), re.M))
    assert set(re.findall(r"\$\{(\w+):\?", text)) == set(template) and not any(template.values())
    assert subprocess.run(["git", "check-ignore", "-q", "deploy/.env"], cwd=ROOT, check=False).returncode == 0


def test_what_the_services_use_is_there(services):
    mounted = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])]
    assert all((DEPLOY / name).is_file() for name in mounted if name.startswith("./"))
    volumes = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["volumes"]
    assert {name for name in mounted if not name.startswith("./")} == set(volumes)
    called = re.findall(r"/deploy/[\w.]+", (DEPLOY / "compose.yaml").read_text())
    assert called and all((DEPLOY / Path(each).name).is_file() for each in called)
    function = re.search(r"^authorization_function = (\w+):(\w+)$", (DEPLOY / "basic_auth.ini").read_text(), re.M)
    assert f"def {function[2]}(" in (DEPLOY / f"{function[1]}.py").read_text()
    assert services["mlflow"]["environment"]["PYTHONPATH"] == "/deploy"


def test_the_image_has_the_versions_that_are_tested():
    pinned = re.findall(r"[\w-]+==[\w.]+", (DEPLOY / "Dockerfile").read_text())
    tested = (ROOT / "constraints.txt").read_text().lower().splitlines()
    assert len(pinned) == 4 and all(pin.lower() in tested for pin in pinned)


def test_images_are_pinned_by_version(services):
    images = {service["image"] for service in services.values() if "build" not in service}
    base = re.search(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text(), re.M)[1]
    assert len(images) == 3 and all(re.search(r":v?\d+\.\d+", image) for image in [*images, base]), images
