"""Three parts of a dataset: to learn from, to choose with, and to measure with once.

splits = split(df, seed=1234)           # texts with tags
splits = Splits(train, val, test, corpus="digits", seed=0)   # DataFrames of any columns
splits.digest                           # known again by it: runs on the same splits may be compared
"""

import hashlib
import json
from dataclasses import field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit
from pydantic.dataclasses import dataclass
from sklearn.preprocessing import MultiLabelBinarizer

from support.data.cleaning import ALL_SCRIPTS, CLEANINGS, LESSON, clean

PARTS = ("train", "val", "test")
FACTS = ("corpus", "seed", "source", "source_digest", "aliases", "cleaning")


class DataError(ValueError):
    """The data are missing or not usable. The message names the file, or the row and column, and a remedy."""


@dataclass(frozen=True, config={"arbitrary_types_allowed": True})
class Splits:
    """Three DataFrames of the same columns, and where they come from.

    The values are texts, numbers, booleans, or lists of these. The series' own have `text` (clean) and `tags`
    (list of str); `aliases` are the tags' other names, and `cleaning` is how the texts were cleaned.
    """

    train: pd.DataFrame
    val: pd.DataFrame
    test: pd.DataFrame
    corpus: str
    seed: int
    source: str = ""
    source_digest: str = ""
    aliases: dict[str, list[str]] = field(default_factory=dict)
    cleaning: str = LESSON

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits that change when any value, column or place in the splits changes."""
        columns = [list(map(str, getattr(self, name).columns)) for name in PARTS]
        rows = [_rows(getattr(self, name), name) for name in PARTS]
        return hashlib.sha256(json.dumps([columns, rows]).encode()).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write all of it to `path` as JSON. Raise DataError for a value that JSON cannot hold."""
        facts = {name: getattr(self, name) for name in FACTS}
        for name in PARTS:
            part = getattr(self, name)
            rows, dtypes = _rows(part, name), list(map(str, part.dtypes))
            facts[name] = {"columns": part.columns.tolist(), "dtypes": dtypes, "rows": rows}
        path.write_text(json.dumps(facts) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Splits":
        """Return what `save` wrote. Raise DataError where the file holds something else."""
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            if facts["cleaning"] not in CLEANINGS:
                raise ValueError("an unknown cleaning")
            parts = {name: _read(facts[name]) for name in PARTS}
            return cls(**parts, **{name: facts[name] for name in FACTS})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(f"{path} does not hold splits: {error!r}.") from error


def split(df: pd.DataFrame, seed: int = 1234) -> Splits:
    """Split texts with tags 70/15/15, stratified over the tags. The same data and seed give the same split.

    Texts that are not from `load_projects` are cleaned here, and keep the letters of all scripts.
    Raise DataError where the rows are not texts with tags, or too few.
    Source: Sechidis et al. (2011), "On the stratification of multi-label data".
    """
    if "cleaning" not in df.attrs and list(df.columns).count("text") == 1:
        texts = [(isinstance(each, str) and clean(each, ALL_SCRIPTS)) or each for each in df.text]
        df = df.assign(text=pd.Series(texts, df.index, object))
        df.attrs["cleaning"] = ALL_SCRIPTS
    df = checked(df, df.attrs.get("cleaning", LESSON))
    if len(set(df.tags.explode())) < 2:
        raise DataError("Fewer than two tags leave nothing to learn: lower min_tag_count or bring more data.")
    too_few = f"{len(df)} rows are too few to split in three: bring more data."
    if len(df) < 10:
        raise DataError(too_few)
    labels = MultiLabelBinarizer().fit_transform(df.tags)
    rows = np.arange(len(df))
    train, rest = _stratify(rows, labels, 0.3, seed)
    val, test = _stratify(rest, labels[rest], 0.5, seed)
    parts = [df.iloc[sorted(part)].reset_index(drop=True) for part in (train, val, test)]
    if not all(map(len, parts)):
        raise DataError(too_few)
    facts = {name: df.attrs[name] for name in FACTS if name in df.attrs and name != "seed"}
    return Splits(*parts, **{"corpus": "unnamed", **facts}, seed=seed)


def checked(df: pd.DataFrame, cleaning: str) -> pd.DataFrame:
    """Return the rows with each `tags` as a list. Raise DataError, by row and column, for what is no text or
    no list of tags, or for a text that is not clean as `cleaning` says: a tagger would see another one."""
    if missing := [name for name in ("text", "tags") if list(df.columns).count(name) != 1]:
        raise DataError(f"The data need the columns text and tags, each once. See {' and '.join(missing)}.")
    tags = []
    for row, text, given in zip(df.index, df.text, df.tags, strict=True):
        if not isinstance(text, str) or not (cleaned := clean(text, cleaning)):
            raise DataError(f"Row {row}, column 'text': {text!r} is no text with letters. Correct it, or drop it.")
        if cleaned != text:
            raise DataError(
                f"Row {row}, column 'text': {text!r:.100} is not clean. Call data.clean(text, {cleaning!r}) for each."
            )
        found = [] if isinstance(given, str) or not np.iterable(given) else list(given)
        if not found or not all(isinstance(tag, str) and tag for tag in found):
            raise DataError(
                f"Row {row}, column 'tags': {given!r} is no list of tags, such as ['nlp', 'graphs']. Correct it, "
                "or drop the row."
            )
        tags.append(found)
    return df.assign(tags=tags)


def _stratify(rows: np.ndarray, labels: np.ndarray, size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    splitter = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=size, random_state=seed)
    first, second = next(splitter.split(rows, labels))
    return rows[first], rows[second]


def _rows(part: pd.DataFrame, name: str) -> list[list]:
    """Return the rows as JSON holds them, arrays as lists. Raise DataError, by row and column, for what it cannot."""
    columns = part.columns.tolist()
    if len(set(columns)) < len(columns) or not all(isinstance(column, str | int) for column in columns):
        raise DataError(
            f"The columns of the {name} split are {columns!r:.200}. Give each a name of its own, a text "
            "or a whole number."
        )
    data = part.to_dict("split", index=False)["data"]
    if (rows := _as_json(data)) is None:
        row, column = next((r, c) for r, row in enumerate(data) for c, v in enumerate(row) if _as_json([v]) is None)
        raise DataError(
            f"The {name} split, row {part.index[row]}, column {columns[column]!r}: {data[row][column]!r:.100} "
            "cannot be recorded. Use texts, numbers, booleans, or lists of these."
        )
    return rows


def _as_json(values: list) -> list | None:
    """Return the values as JSON brings them back, or None where it cannot hold them."""
    try:
        text = json.dumps(values, default=np.ndarray.tolist, ensure_ascii=False)
        text.encode()  # half of a surrogate pair is no text
        return json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None


def _read(written: dict) -> pd.DataFrame:
    frame = pd.DataFrame(written["rows"], columns=written["columns"], dtype=object)
    dtypes = dict(zip(written["columns"], map(pd.api.types.pandas_dtype, written["dtypes"]), strict=True))
    if strange := [dtype for dtype in dtypes.values() if dtype.kind not in "biufO"]:  # a type of 1 GB a value, say
        raise ValueError(f"columns of the type {strange[0]}")
    return frame.astype(dtypes)
