# Find the project. On Colab, fetch it first and install what is missing.
import subprocess
import sys
from pathlib import Path

home = Path("/content/PROJECT_NAME")
notebook = Path(globals().get("__vsc_ipynb_file__", "this.ipynb"))  # VS Code says where it is
places = [*Path("this.ipynb").resolve().parents, *notebook.resolve().parents, home]
root = next((place for place in places if (place / "support" / "environment.py").is_file()), None)
if root is None and "google.colab" in sys.modules:
    url = "PROJECT_URL"
    assert "/your-account/" not in url, "No public address yet: `make address` sets it."
    subprocess.run(["git", "clone", "--depth", "1", url, str(home)], check=True)
    root = home
if root is None:
    message = "No folder support/ here or above: open this notebook in the project's folder."
    raise FileNotFoundError(message)
sys.path.insert(0, str(root))

from support import environment

environment.prepare()
