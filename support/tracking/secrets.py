"""Whether a text may hold a secret: then it is not recorded at all.

finding('ngrok.set_auth_token("2Zx9...")')   # 'Base64 High Entropy String'

detect-secrets decides (https://github.com/Yelp/detect-secrets). It reads source code, so it passes over what
shells, .env files and notebooks' magics leave unquoted: each long mixed word is shown to it once more in
quotes, and FORMS are the usual ways to hand over a secret that is short or looks like a word.
"""

import re
import string
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.core.scan import scan_file
from detect_secrets.settings import transient_settings

# Files that hold secrets by their name: never read.
SECRET_FILES = (
    ".env*", "*.env", ".netrc", "_netrc", ".pgpass", "*.pem", "*.key", "*.p12", "*.pfx", "*.keystore", "*.kdbx",
    "id_rsa*", "id_ed25519*", "id_ecdsa*", "*credentials*", "*secret*", "ngrok.yml", ".git-credentials", ".htpasswd",
    ".pypirc", ".npmrc", "kaggle.json", "service_account*.json", "token.json", "*.token",
)  # fmt: skip
NAME = r"(?:pass(?:word|wd|phrase)\w*|pwd?|secret\w*|\w*token|\w*api_?key|access_?key\w*|auth(?!or)\w*|credential\w*)"
FORMS = [
    rf"""{NAME}["']?\]?\s*[=:(]\s*[rbf]?["'][^"'\n]{{3,}}["']""",  # password="x", ["TOKEN"] = "x", token("x")
    rf"""(?:env|setdefault|set)\w*\(\s*["']\w*{NAME}["']\s*,\s*["'][^"'\n]{{3,}}["']""",  # putenv("TOKEN", "x")
    rf"""^\s*[!%\s]*(?:(?:export|set_env|env|set)\s+)?\w*{NAME}(?:=|:\s*|\s+)[^\s"'#()\[\]{{}},]{{4,}}\s*$""",  # .env
    rf"""(?:^|[\s?&;"'!])\w*{NAME}=[^\s"'&;()<>,]{{3,}}(?=[\s"'&;]|$)""",  # a DSN, a query, a command's variable
    rf"(?<![\w-])--?{NAME.replace('_?', '[_-]?')}[ =](?!\w*\s*\()\S{{4,}}",  # an option of a command
    r"\b(?:login|mysql\w*|sshpass)\b.*\s-p\s?\S{4,}|\bcurl\b.*\s(?:-u|--user)\s*\S+:\S{4,}",
    r"(?-i:\b[A-Z]+_KEY)\s*=\s*\S{6,}",
    rf"""{NAME}["']?\]?\s*[=(]\s*\(?\s*[rbf]?["']{{1,3}}[^"'\n]{{3,}}["']""",  # over lines, or in three quotes
    rf"""[\w-]*(?:key|{NAME}):\s*[^\s"'\[\]{{}}()]{{6,}}["']""",  # a header of curl's
    r"""\b\w*auth(?!or)\w*\s*[=(]\s*\(?\s*["'][^"'\n]+["']\s*,\s*["'][^"'\n]{3,}["']""",  # auth=("me", "x")
    r"://[^\s/:@\"']+:[^\s/@\"'{}]{3,}@",  # a login in an address
    r"authorization:\s*\w+\s+(?=\S*\d)\S{6,}",
    r"""login\(.*["'][^"'\n]{4,}["']|\blogin\s+(?!\w+\s*=)(?=\S*\d)\S{8,}""",
    r"""[?&](?:key|sig|signature|code)=[^&\s"']{6,}""",
    r"\b(?:bearer|basic)\s+(?=\S*\d)[\w.+/=-]{6,}",
    r"\bmachine\s+\S+.*\bpassword\s+\S+",
    r"authtoken\s+(?=\S*\d)\S{6,}",
    r"-----BEGIN [A-Z ]*PRIVATE KEY",
]
SECRET_NAME = re.compile("token|secret|passw|api_?key|auth|credential", re.IGNORECASE)  # of a variable
FORM = re.compile("|".join(f"(?:{form})" for form in FORMS), re.IGNORECASE | re.MULTILINE)
WORD = re.compile(r"[A-Za-z0-9+/=_-]{20,}")
MIXED = (string.ascii_lowercase, string.ascii_uppercase, string.digits)


def finding(text: str, name: str = "cell.py") -> str | None:
    """Return what in the text looks like a secret, in detect-secrets' words; None where nothing does.

    `name` is the file's: what a line means depends on its ending.
    """
    if FORM.search(text):
        return "a value given to a secret's name"
    # Digests in hex are everywhere in records, and no secrets.
    plugins = [{"name": c.__name__} for c in get_mapping_from_secret_type_to_class().values()]
    plugins = [plugin for plugin in plugins if plugin["name"] != "HexHighEntropyString"]
    mixed = [word for word in WORD.findall(text) if all(sum(c in kind for c in word) > 1 for kind in MIXED)]
    quoted = "".join(f'\nword = "{word}"' for word in dict.fromkeys(mixed))
    with TemporaryDirectory() as folder, transient_settings({"plugins_used": plugins}):
        path = Path(folder, f"scanned{Path(name).suffix}")
        path.write_text(text + quoted, encoding="utf-8", errors="replace")
        return next((secret.type for secret in scan_file(str(path))), None)


def holds_secrets_by_name(name: str) -> bool:
    """Return whether a file of this name is one that secrets are kept in."""
    return any(fnmatch(Path(name).name.lower(), pattern.lower()) for pattern in SECRET_FILES)
