"""The corpus: fetch it, clean it, and filter it as the lesson does.

The default is the corpus of Made With ML's lesson "Experiment Tracking". Without a network it is the sample
corpus that ships beside this file. Your own data works too: name a folder with projects.json and tags.json.
"""

import codecs
import hashlib
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import pandas as pd
import pooch
import requests
from pydantic import Field, TypeAdapter, ValidationError

from support.config import stores_dir
from support.data.cleaning import ALL_SCRIPTS, LESSON, clean
from support.data.splits import DataError

T = TypeVar("T")
LESSON_URL = (
    "https://raw.githubusercontent.com/GokuMohandas/Made-With-ML/486014928ed9f455860f65ee147f49521f9d71d2/datasets/"
)
LESSON_SHA256 = {
    "projects.json": "f064fd7a0408a974c9ee94270100f33c63c17b8e38dc758e9257c1a5b62e4b31",
    "tags.json": "609171cd43a6466b7a2aa82bd25fc5a55755d5ba6e52e0981f81f7c73ee4e9aa",
}
SAMPLE_DIR = Path(__file__).parent / "sample"
# The lesson leaves these out: they fit nearly every project, so they tell nothing.
TOO_BROAD = {"machine-learning", "deep-learning", "data-science", "neural-networks"}
TOO_BROAD |= {"python", "r", "visualization"}
ELSEWHERE = {"lesson": LESSON_URL, "sample": "support/data/sample"}
OFFLINE_AFTER = 12  # seconds until a silent network counts as none


@dataclass
class Project:
    """An entry of projects.json; what else it holds is not read."""

    title: str
    description: str
    tags: list[str]


@dataclass
class Tag:
    """An entry of tags.json: a tag and its other names."""

    tag: str
    aliases: list[str] = field(default_factory=list)


def load_projects(source: str | os.PathLike | None = None, min_tag_count: int = 30) -> pd.DataFrame:
    """Return one row a project: `text` (clean) and `tags` (list of str), filtered as the lesson does.

    `source` is a folder that holds projects.json and tags.json. Without it the environment's LESSON_DATA_DIR
    is used, else the lesson's corpus, fetched once into `stores/data`, else (no network) the sample corpus.
    `df.attrs` says where the rows come from: "corpus" is "lesson", "sample", or the folder's name.
    Raise DataError when a file is missing or broken, or when the filter leaves nothing.
    """
    source = source or os.environ.get("LESSON_DATA_DIR")
    folder = (Path(source).expanduser() if source else _lesson_dir()).resolve()
    projects, tags = _read(folder / "projects.json", Project), _read(folder / "tags.json", Tag)
    corpus = _corpus_name(folder)
    cleaning = LESSON if corpus in ELSEWHERE else ALL_SCRIPTS
    aliases = {entry.tag: entry.aliases for entry in tags if entry.tag not in TOO_BROAD}

    df = pd.DataFrame(
        {
            "text": [clean(f"{project.title} {project.description}", cleaning) for project in projects],
            "tags": [[tag for tag in dict.fromkeys(project.tags) if tag in aliases] for project in projects],
        }
    )
    counts = df.tags.explode().value_counts()
    df["tags"] = [[tag for tag in tags if counts[tag] >= min_tag_count] for tags in df.tags]
    df = df[df.tags.str.len() > 0]
    if df.empty:
        raise DataError(
            f"{folder / 'projects.json'}: no project is left, since no tag of tags.json is on at least "
            f"{min_tag_count} projects. Lower min_tag_count or bring more data."
        )
    if blank := list(df.index[df.text == ""]):
        raise DataError(
            f"{folder / 'projects.json'}: entry {blank[0]} has a title and a description without a letter or "
            "digit. Correct the entry, or remove it."
        )
    df = df.reset_index(drop=True)
    df.attrs["corpus"] = corpus
    df.attrs["cleaning"] = cleaning
    df.attrs["aliases"] = {tag: aliases[tag] for tag in sorted(set(df.tags.explode()))}
    df.attrs["source"] = ELSEWHERE.get(corpus, folder.name)
    files = b"".join((folder / name).read_bytes() for name in LESSON_SHA256)
    df.attrs["source_digest"] = hashlib.sha256(files).hexdigest()[:16]
    return df


def about(df: pd.DataFrame) -> str:
    """Return a sentence that says which corpus this is and how large."""
    names = {
        "lesson": "The lesson's corpus",
        "sample": "The sample corpus of this project (the lesson's could not be fetched)",
    }
    corpus = names.get(df.attrs["corpus"], f"The corpus in {df.attrs['corpus']}")
    return f"{corpus}: {len(df):,} projects with {len(set(df.tags.explode()))} tags."


def _lesson_dir() -> Path:
    """Return the folder of the lesson's files, fetched if need be, or the sample's without a network."""
    folder = stores_dir() / "data"
    wanted = [name for name, sha256 in LESSON_SHA256.items() if _sha256(folder / name) != sha256]
    if wanted and (reason := _unreachable(LESSON_URL + "tags.json")):
        if damaged := [str(folder / name) for name in wanted if (folder / name).exists()]:
            raise DataError(
                f"{' and '.join(damaged)}: damaged, and no new copy can be fetched ({reason}). Delete the "
                f"file to use the sample corpus, or run this again with a network to use the lesson's."
            )
        print(f"The lesson's corpus is out of reach ({reason}), so the sample corpus stands in.")
        return SAMPLE_DIR
    pooch.get_logger().setLevel("WARNING")  # its notes show this machine's paths in the notebook
    download = pooch.HTTPDownloader(progressbar=True, timeout=30)
    for name in wanted:
        try:
            pooch.retrieve(LESSON_URL + name, LESSON_SHA256[name], name, folder, downloader=download)
        except (requests.RequestException, ValueError, OSError) as error:
            raise DataError(
                f"{folder / name}: no good copy could be fetched ({error}). Delete the file if it is there, "
                f"check the network and run this again, or set LESSON_DATA_DIR to a folder that holds it."
            ) from error
    return folder


def _unreachable(url: str) -> str | None:
    """Return why `url` cannot be fetched, or None, within OFFLINE_AFTER seconds."""
    reasons = [f"no answer in {OFFLINE_AFTER} seconds"]

    def ask() -> None:
        try:
            requests.head(url, timeout=OFFLINE_AFTER / 2, allow_redirects=True).raise_for_status()
            reasons.append(None)
        except requests.HTTPError as error:
            reasons.append(f"status {error.response.status_code}")
        except requests.RequestException as error:
            reasons.append(type(error).__name__)

    # A thread, since no timeout of requests covers the name look-up.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(OFFLINE_AFTER)
    return reasons[-1]


def _read(path: Path, kind: type[T]) -> list[T]:
    """Return the entries of a JSON file. Raise DataError, by entry and field, for what is not of this kind."""
    entries = TypeAdapter(Annotated[list[kind], Field(min_length=1)])
    try:
        return entries.validate_json(path.read_bytes().removeprefix(codecs.BOM_UTF8), strict=True)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{path} is missing. The folder must hold projects.json and tags.json; "
            f"correct LESSON_DATA_DIR (or the argument), or leave it out to use the lesson's corpus."
        ) from None
    except ValidationError as error:
        wrong = error.errors()[0]
        place = "".join(f", {part}" if isinstance(part, str) else f", entry {part}" for part in wrong["loc"])
        raise DataError(f"{path}{place}: {wrong['msg']}. Correct the file, or fetch it again.") from None


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _corpus_name(folder: Path) -> str:
    if all(_sha256(folder / name) == sha256 for name, sha256 in LESSON_SHA256.items()):
        return "lesson"
    if folder == SAMPLE_DIR.resolve():
        return "sample"
    return f"own {folder.name}" if folder.name in ELSEWHERE else folder.name
