"""The corpus: fetch it, clean it, filter it as the lesson does, and split it.

The default is the corpus of Made With ML's lesson "Experiment Tracking". Without a network it is
the sample corpus that ships beside this file. Your own data works too: name a folder with the same two
files. `projects.json` is a list of {"title", "description", "tags"}; `tags.json` is a list of {"tag"}, each
with or without "aliases", a list of other names.

    df = load_projects()          # columns: text (clean), tags (list of str)
    splits = split(df, seed=1234)  # .train .val .test
"""

import hashlib
import json
import os
import re
import threading
from collections import Counter
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path

import numpy as np
import pandas as pd
import pooch
import requests
from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from sklearn.preprocessing import MultiLabelBinarizer

from support.tracking.store import stores_dir

LESSON_URL = (
    "https://raw.githubusercontent.com/GokuMohandas/Made-With-ML/"
    "486014928ed9f455860f65ee147f49521f9d71d2/datasets/"
)
LESSON_SHA256 = {
    "projects.json": "f064fd7a0408a974c9ee94270100f33c63c17b8e38dc758e9257c1a5b62e4b31",
    "tags.json": "609171cd43a6466b7a2aa82bd25fc5a55755d5ba6e52e0981f81f7c73ee4e9aa",
}
SAMPLE_DIR = Path(__file__).parent / "sample"
# The lesson leaves these out: they fit nearly every project, so they tell nothing.
TOO_BROAD = {"machine-learning", "deep-learning", "data-science", "neural-networks"}
TOO_BROAD |= {"python", "r", "visualization"}
OFFLINE_AFTER = 12  # seconds until a silent network counts as none


class DataError(ValueError):
    """The corpus is missing or broken. The message names the file and what to do."""


@dataclass(frozen=True)
class Splits:
    """Three DataFrames with `text` and `tags`, where they come from, and the other names of tags."""

    train: pd.DataFrame
    val: pd.DataFrame
    test: pd.DataFrame
    corpus: str
    seed: int
    source: str = ""
    source_digest: str = ""
    aliases: dict[str, list[str]] = dataclass_field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Sixteen hex digits that change when any text, tag or its place in the splits changes."""
        parts = [part.to_json(orient="values") for part in (self.train, self.val, self.test)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write all of it to `path` as JSON."""
        facts = {
            name: getattr(self, name) for name in ("corpus", "seed", "source", "source_digest", "aliases")
        }
        for name in ("train", "val", "test"):
            facts[name] = getattr(self, name)[["text", "tags"]].to_dict("records")
        path.write_text(json.dumps(facts, indent=0) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Splits":
        """Read what `save` wrote. Raises DataError where the file holds something else."""
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            for name in ("train", "val", "test"):
                rows = [(str(row["text"]), list(map(str, row["tags"]))) for row in facts[name]]
                facts[name] = pd.DataFrame(rows, columns=["text", "tags"])
            aliases = dict(facts.get("aliases", {}))  # earlier files have none
            facts["aliases"] = {tag: list(map(str, names)) for tag, names in aliases.items()}
            return cls(**facts)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError(f"{path} does not hold splits: {error!r}.") from error


def load_projects(source: str | os.PathLike | None = None, min_tag_count: int = 30) -> pd.DataFrame:
    """Give one row a project: `text` (clean) and `tags` (list of str), filtered as the lesson does.

    `source` is a folder that holds projects.json and tags.json. Without it the environment's
    LESSON_DATA_DIR is used, else the lesson's corpus, fetched once into `stores/data`, else (no
    network) the sample corpus. `df.attrs["corpus"]` says which: "lesson", "sample", or the folder's
    name. Raises DataError when a file is missing or broken, or when the filter leaves nothing.
    """
    source = source or os.environ.get("LESSON_DATA_DIR")
    folder = Path(source).expanduser() if source else _lesson_dir()
    aliases = _aliases(folder / "tags.json")
    tags_in_use = aliases.keys() - TOO_BROAD
    projects = _read(folder / "projects.json", title=str, description=str, tags=list)

    df = pd.DataFrame(
        {
            "text": [clean(f"{project['title']} {project['description']}") for project in projects],
            "tags": [[tag for tag in dict.fromkeys(p["tags"]) if tag in tags_in_use] for p in projects],
        }
    )
    counts = Counter(tag for tags in df.tags for tag in tags)
    df["tags"] = [[tag for tag in tags if counts[tag] >= min_tag_count] for tags in df.tags]
    df = df[df.tags.str.len() > 0].reset_index(drop=True)
    if df.empty:
        raise DataError(
            f"{folder / 'projects.json'}: no project is left, since no tag of tags.json is on at least "
            f"{min_tag_count} projects. Lower min_tag_count or bring more data."
        )
    corpus = _corpus_name(folder)
    elsewhere = {"lesson": LESSON_URL, "sample": "support/sample"}
    files = b"".join((folder / name).read_bytes() for name in LESSON_SHA256)
    df.attrs["corpus"] = corpus
    df.attrs["aliases"] = {tag: aliases[tag] for tag in sorted(set(df.tags.explode()))}
    df.attrs["source"] = elsewhere.get(corpus, str(folder.resolve()))
    df.attrs["source_digest"] = hashlib.sha256(files).hexdigest()[:16]
    return df


def about(df: pd.DataFrame) -> str:
    """Say in a sentence which corpus this is and how large."""
    names = {
        "lesson": "The lesson's corpus",
        "sample": "The sample corpus that ships with this project (the lesson's could not be fetched)",
    }
    corpus = names.get(df.attrs["corpus"], f"The corpus in {df.attrs['corpus']}")
    return f"{corpus}: {len(df):,} projects with {len(set(df.tags.explode()))} tags."


def clean(text: str) -> str:
    """Lower case, no English stop words, only a-z and 0-9, single spaces (the lesson's cleaning).

    Stop words go last, so that a clean text stays as it is; the lesson's corpus comes out the same.
    """
    words = re.findall("[a-z0-9]+", text.lower())
    return " ".join(word for word in words if word not in ENGLISH_STOP_WORDS)


def split(df: pd.DataFrame, seed: int = 1234) -> Splits:
    """Split 70/15/15, stratified over the tags. The same data and seed give the same split.

    Source: Sechidis et al. (2011), "On the stratification of multi-label data".
    """
    if len(set(df.tags.explode())) < 2:
        raise DataError("Fewer than two tags leave nothing to learn: lower min_tag_count or bring more data.")
    too_few = f"{len(df)} projects are too few to split in three: bring more data."
    if len(df) < 10:
        raise DataError(too_few)
    labels = MultiLabelBinarizer().fit_transform(df.tags)
    rows = np.arange(len(df))
    train, rest = _stratify(rows, labels, 0.3, seed)
    val, test = _stratify(rest, labels[rest], 0.5, seed)
    parts = [df.iloc[sorted(part)].reset_index(drop=True) for part in (train, val, test)]
    if not all(map(len, parts)):
        raise DataError(too_few)
    facts = {name: df.attrs[name] for name in ("source", "source_digest", "aliases") if name in df.attrs}
    return Splits(*parts, corpus=df.attrs.get("corpus", "unnamed"), seed=seed, **facts)


def _stratify(rows: np.ndarray, labels: np.ndarray, size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    splitter = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=size, random_state=seed)
    first, second = next(splitter.split(rows, labels))
    return rows[first], rows[second]


def _lesson_dir() -> Path:
    """Give the folder of the lesson's files, fetched if need be, or the sample's without a network."""
    folder = stores_dir() / "data"
    wanted = {name: sha256 for name, sha256 in LESSON_SHA256.items() if _sha256(folder / name) != sha256}
    if wanted and (reason := _unreachable(LESSON_URL + "tags.json")):
        if damaged := [str(folder / name) for name in wanted if (folder / name).exists()]:
            raise DataError(
                f"{' and '.join(damaged)}: damaged, and no new copy can be fetched ({reason}). Delete the "
                f"file to use the sample corpus, or run this again with a network to use the lesson's."
            )
        print(f"The lesson's corpus is out of reach ({reason}), so the sample corpus stands in.")
        return SAMPLE_DIR
    pooch.get_logger().setLevel("WARNING")  # its notes show this machine's paths in the notebook
    for name, sha256 in wanted.items():
        try:
            pooch.retrieve(
                LESSON_URL + name,
                known_hash=sha256,
                fname=name,
                path=folder,
                progressbar=True,
                downloader=pooch.HTTPDownloader(progressbar=True, timeout=30),
            )
        except (requests.RequestException, ValueError, OSError) as error:
            raise DataError(
                f"{folder / name}: no good copy could be fetched ({error}). Delete the file if it is there, "
                f"check the network and run this again, or set LESSON_DATA_DIR to a folder that holds it."
            ) from error
    return folder


def _unreachable(url: str) -> str | None:
    """Say why `url` cannot be fetched, or None. Answers within OFFLINE_AFTER seconds."""
    answer = []

    def ask() -> None:
        try:
            requests.head(url, timeout=OFFLINE_AFTER / 2, allow_redirects=True).raise_for_status()
            answer.append(None)
        except requests.RequestException as error:
            status = f"status {error.response.status_code}" if error.response is not None else None
            answer.append(status or type(error).__name__)

    # A thread, since no timeout of requests covers the name look-up.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(OFFLINE_AFTER)
    return answer[0] if answer else f"no answer in {OFFLINE_AFTER} seconds"


def _read(path: Path, **fields: type) -> list[dict]:
    """Read a JSON list of objects that all have `fields` of the given types; a list is one of str."""
    try:
        entries = json.loads(
            path.read_text(encoding="utf-8-sig")
        )  # with or without the mark some editors add
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{path} is missing. The folder must hold projects.json and tags.json; "
            f"correct LESSON_DATA_DIR (or the argument), or leave it out to use the lesson's corpus."
        ) from None
    except ValueError as error:
        raise DataError(
            f"{path} is not valid JSON in UTF-8 ({error}). Fetch or write the file again."
        ) from error
    if not isinstance(entries, list):
        raise DataError(f"{path} must hold a list of objects. It holds a {type(entries).__name__}.")
    for number, entry in enumerate(entries):
        for field, kind in fields.items():
            value = entry.get(field) if isinstance(entry, dict) else None
            if not isinstance(value, kind) or (kind is list and not all(isinstance(v, str) for v in value)):
                wanted = "list of str" if kind is list else kind.__name__
                raise DataError(
                    f"{path}: entry {number} has no field {field!r} of type {wanted}. Correct the entry: "
                    f"each needs {', '.join(fields)}."
                )
    return entries


def _aliases(path: Path) -> dict[str, list[str]]:
    """Read the tags: each with its other names."""
    aliases = {}
    for number, entry in enumerate(_read(path, tag=str)):
        names = entry.get("aliases", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"{path}: entry {number} has aliases that are no list of str. Correct the entry.")
        aliases[entry["tag"]] = names
    return aliases


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _corpus_name(folder: Path) -> str:
    if all(_sha256(folder / name) == sha256 for name, sha256 in LESSON_SHA256.items()):
        return "lesson"
    name = folder.resolve().name
    if folder.resolve() == SAMPLE_DIR.resolve():
        return "sample"
    return f"own {name}" if name in ("lesson", "sample") else name
