"""Make a Python process look like one of Colab's: `PYTHONPATH=tests/colab`. No secret, a proxy's address, a frame."""

import re
import sys
from types import ModuleType

colab, output, userdata = (ModuleType(f"google.colab{part}") for part in ("", ".output", ".userdata"))
userdata.SecretNotFoundError, userdata.NotebookAccessError = KeyError, PermissionError
userdata.get = {}.__getitem__
output.eval_js = lambda code: "https://{}-m-s-1.prod.colab.dev/".format(re.search(r"proxyPort\((\d+)", code)[1])
output.serve_kernel_port_as_iframe = lambda port, path, height: print("a frame")
colab.output, colab.userdata = output, userdata
sys.modules |= {module.__name__: module for module in (colab, output, userdata)}
