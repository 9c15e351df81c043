"""The corpus: fetched once and checked, cleaned and filtered as the lesson does, split without overlap."""

import codecs
import hashlib
import io
import json
import logging
import re
import shutil
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pooch
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from support.data import corpus as data
from support.data.cleaning import ALL_SCRIPTS, LESSON, clean
from support.data.corpus import about, load_projects
from support.data.splits import DataError, Splits, split
from support.models.encoding import LabelEncoder, Tokenizer

SENTENCE = "so the sample corpus stands in"


def write_corpus(folder: Path, projects: object, tags: object = None) -> Path:
    """Write the two files of a corpus; `tags` are names, by default those of the projects."""
    if tags is None:
        tags = sorted({tag for project in projects for tag in project["tags"]})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "projects.json").write_text(json.dumps(projects))
    (folder / "tags.json").write_text(json.dumps([{"tag": tag} for tag in tags]))
    return folder


def project(*tags: object, title: object = "Title", description: object = "Words") -> dict:
    return {"title": title, "description": description, "tags": list(tags)}


def rows(df: pd.DataFrame) -> list[tuple]:
    return [(text, tuple(tags)) for text, tags in zip(df.text, df.tags, strict=True)]


# The lesson's corpus


def test_lesson_corpus_has_1444_projects_35_tags_and_39_characters(lesson_dir):
    df = load_projects(lesson_dir)
    assert list(df.columns) == ["text", "tags"]
    assert len(df) == 1444
    assert len({tag for tags in df.tags for tag in tags}) == 35
    assert len(Tokenizer.fit(df.text)) == 39
    assert df.attrs["corpus"] == "lesson"
    assert about(df) == "The lesson's corpus: 1,444 projects with 35 tags."


def test_lesson_splits_have_39_characters_and_35_tags_in_each(lesson_splits):
    assert len(Tokenizer.fit(lesson_splits.train.text)) == 39
    for part in (lesson_splits.train, lesson_splits.val, lesson_splits.test):
        assert len({tag for tags in part.tags for tag in tags}) == 35


def test_lesson_corpus_is_known_by_its_bytes_not_by_its_folder(lesson_dir, tmp_path):
    for name in data.LESSON_SHA256:
        shutil.copyfile(lesson_dir / name, tmp_path / name)
    assert load_projects(tmp_path).attrs["corpus"] == "lesson"
    with (tmp_path / "tags.json").open("a") as file:
        file.write(" ")
    assert load_projects(tmp_path).attrs["corpus"] == tmp_path.name


# Cleaning


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The Quick Brown Fox", "quick brown fox"),
        ("Transfer learning with BERT!", "transfer learning bert"),
        ("word2vec, GPT-3 & T5", "word2vec gpt 3 t5"),
        ("  many   spaces\tand\nlines ", "spaces lines"),
        ("state-of-the-art", "state art"),
        ("don't", "don t"),  # neither "don" nor "t" is on the list
        ("thesis is theirs", "thesis theirs"),  # only whole words go; "theirs" is not on the list
        ("naïve café", "na ve caf"),
        ("https://example.com/is/a_b", "https example com b"),
        ("日本語", ""),
        ("and the of", ""),
        ("", ""),
    ],
)
def test_clean_gives_what_a_hand_gives(text, wanted):
    assert clean(text) == wanted


@given(st.text())
def test_clean_leaves_only_letters_digits_and_single_spaces(text):
    cleaned = clean(text)
    assert set(cleaned) <= set("abcdefghijklmnopqrstuvwxyz0123456789 ")
    assert cleaned == " ".join(cleaned.split())


@given(st.lists(st.sampled_from(["the", "a", "cat", "_", "é", "'", " ", "3"])).map("".join) | st.text())
def test_a_clean_text_stays_as_it_is(text):
    """Else a tagger, which cleans, would read a corpus's text otherwise than the training did."""
    assert clean(clean(text)) == clean(text)


def lessons_clean(text: str) -> str:
    """The lesson's own lines."""
    text = re.sub(r"\b(" + r"|".join(ENGLISH_STOP_WORDS) + r")\b\s*", "", text.lower())
    text = re.sub(r"([!\"'#$%&()*\+,-./:;<=>?@\\\[\]^_`{|}~])", r" \1 ", text)
    text = re.sub("[^A-Za-z0-9]+", " ", text)
    return re.sub(" +", " ", text).strip()


@pytest.mark.parametrize("corpus", ["lesson_dir", "sample_dir"])
def test_clean_is_the_lessons_on_every_project(request, monkeypatch, corpus):
    folder = data.SAMPLE_DIR if corpus == "sample_dir" else request.getfixturevalue(corpus)
    ours = load_projects(folder)
    monkeypatch.setattr(data, "clean", lambda text, cleaning: lessons_clean(text))
    pd.testing.assert_frame_equal(load_projects(folder), ours)


@given(st.text(alphabet=[chr(i) for i in range(128) if chr(i) != "_"]))
def test_clean_is_the_lessons_on_plain_text(text):
    assert clean(text) == lessons_clean(text)


def test_text_is_title_and_description(tmp_path):
    folder = write_corpus(tmp_path, [project("graphs", title="Big Graphs", description="Drawn fast.")])
    assert list(load_projects(folder, min_tag_count=1).text) == ["big graphs drawn fast"]


# The filter


def test_filter_drops_broad_unlisted_and_rare_tags_then_projects_without_one(tmp_path):
    projects = [
        project("graphs", "python", "deep-learning", title="kept"),
        project("graphs", "rare", "unlisted", title="kept too"),
        project("rare2", "machine-learning", title="dropped"),
        project("unlisted", title="dropped too"),
        project("unlisted", title="dropped three"),
        project(title="dropped four"),
    ]
    folder = write_corpus(tmp_path, projects, ["graphs", "rare", "rare2", "python", "machine-learning"])
    df = load_projects(folder, min_tag_count=2)
    assert rows(df) == [("kept words", ("graphs",)), ("kept words", ("graphs",))]
    assert list(df.index) == [0, 1]


def test_the_seven_broad_tags_go_however_many_projects_have_them(tmp_path):
    broad = ["machine-learning", "deep-learning", "data-science", "neural-networks", "python", "r"]
    broad.append("visualization")
    assert set(broad) == data.TOO_BROAD
    folder = write_corpus(tmp_path, [project("graphs", *broad)] * 40)
    assert set(load_projects(folder).tags.explode()) == {"graphs"}


@pytest.mark.parametrize(("count", "kept"), [(29, False), (30, True)])
def test_thirty_projects_keep_a_tag_and_29_do_not(tmp_path, count, kept):
    projects = [project("graphs")] * 40 + [project("flask")] * count
    df = load_projects(write_corpus(tmp_path, projects))
    assert ("flask" in set(df.tags.explode())) is kept


def test_a_tag_twice_in_one_project_counts_once(tmp_path):
    projects = [project("graphs", "graphs"), project("flask"), project("flask")]
    df = load_projects(write_corpus(tmp_path, projects), min_tag_count=2)
    assert list(df.tags) == [["flask"], ["flask"]]
    df = load_projects(tmp_path, min_tag_count=1)
    assert list(df.tags) == [["graphs"], ["flask"], ["flask"]]


def test_nothing_left_after_the_filter_is_an_error(tmp_path):
    folder = write_corpus(tmp_path, [project("graphs")] * 5)
    with pytest.raises(DataError, match=r"projects\.json: no project is left.*at least 30.*Lower min_tag_count"):
        load_projects(folder)


# A folder of one's own


def test_the_argument_wins_over_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("LESSON_DATA_DIR", str(write_corpus(tmp_path / "one", [project("graphs", title="alpha")])))
    two = write_corpus(tmp_path / "two", [project("graphs", title="beta")])
    assert load_projects(min_tag_count=1).text[0].startswith("alpha")
    assert load_projects(two, min_tag_count=1).text[0].startswith("beta")
    assert load_projects(str(two), min_tag_count=1).attrs["corpus"] == "two"


@pytest.mark.parametrize("name", ["lesson", "sample"])
def test_a_folder_named_like_a_corpus_is_not_taken_for_it(tmp_path, name):
    df = load_projects(write_corpus(tmp_path / name, [project("graphs")]), min_tag_count=1)
    assert df.attrs["corpus"] == f"own {name}"
    assert about(df) == f"The corpus in own {name}: 1 projects with 1 tags."


def test_a_byte_order_mark_is_no_obstacle(tmp_path):
    folder = write_corpus(tmp_path, [project("graphs")])
    for name in data.LESSON_SHA256:
        (folder / name).write_bytes(codecs.BOM_UTF8 + (folder / name).read_bytes())
    assert len(load_projects(folder, min_tag_count=1)) == 1


@pytest.mark.parametrize("missing", ["projects.json", "tags.json"])
def test_a_folder_without_a_file_is_an_error_that_names_it(tmp_path, missing):
    folder = write_corpus(tmp_path, [project("graphs")])
    (folder / missing).unlink()
    with pytest.raises(DataError) as error:
        load_projects(folder)
    assert str(folder / missing) in str(error.value)
    assert "is missing" in str(error.value) and "LESSON_DATA_DIR" in str(error.value)


def test_a_file_given_as_the_folder_is_an_error_that_says_so(tmp_path):
    folder = write_corpus(tmp_path, [project("graphs")])
    with pytest.raises(DataError, match=r"is missing\. The folder must hold projects\.json and tags\.json"):
        load_projects(folder / "projects.json")


@pytest.mark.parametrize(
    "content",
    [b"", b'[{"title": "a"', b"title,tags", '[{"title": "café"}]'.encode("latin-1"), b"\xff\xfe[\x00]\x00"],
    ids=["empty", "truncated", "csv", "latin-1", "utf-16"],
)
def test_broken_json_is_an_error_that_names_the_file(tmp_path, content):
    folder = write_corpus(tmp_path, [project("graphs")])
    (folder / "projects.json").write_bytes(content)
    with pytest.raises(DataError) as error:
        load_projects(folder)
    assert f"{folder / 'projects.json'}: Invalid JSON: " in str(error.value)
    assert "Correct the file, or fetch it again" in str(error.value)


@pytest.mark.parametrize(
    ("entry", "wrong"),
    [
        ({"description": "b", "tags": []}, ", title: Field required"),
        ({"title": "a", "tags": []}, ", description: Field required"),
        ({"title": "a", "description": "b"}, ", tags: Field required"),
        (project("graphs", title=None), ", title: Input should be a valid string"),
        (project("graphs", description=3), ", description: Input should be a valid string"),
        ({"title": "a", "description": "b", "tags": "graphs"}, ", tags: Input should be a valid array"),
        (project("graphs", 3), ", tags, entry 1: Input should be a valid string"),
        (project(["graphs"]), ", tags, entry 0: Input should be a valid string"),
        (project(None), ", tags, entry 0: Input should be a valid string"),
        ("a text", ": Input should be an object"),
        (None, ": Input should be an object"),
    ],
)
def test_a_missing_or_wrong_field_is_an_error_that_names_file_entry_and_field(tmp_path, entry, wrong):
    folder = write_corpus(tmp_path, [project("graphs"), entry], ["graphs"])
    with pytest.raises(DataError) as error:
        load_projects(folder)
    assert f"{folder / 'projects.json'}, entry 1{wrong}. Correct the file" in str(error.value)


def test_a_tag_without_a_name_is_an_error_that_names_the_file(tmp_path):
    folder = write_corpus(tmp_path, [project("graphs")])
    (folder / "tags.json").write_text('[{"name": "graphs"}]')
    with pytest.raises(DataError, match=r"tags\.json, entry 0, tag: Field required"):
        load_projects(folder)


def test_an_object_in_place_of_the_list_is_an_error(tmp_path):
    folder = write_corpus(tmp_path, [project("graphs")])
    (folder / "projects.json").write_text("{}")
    with pytest.raises(DataError, match=r"projects\.json: Input should be a valid array"):
        load_projects(folder)


# A corpus of one's own, in any language


RUSSIAN = "Учебный проект № 3: сеть играет."


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (RUSSIAN, "учебный проект 3 сеть играет"),
        ("Über naïve Cafés", "über naïve cafés"),
        ("機械学習、入門。", "機械学習 入門"),
        ("हिन्दी पाठ", "हिन्दी पाठ"),  # vowel signs belong to their letters
        ("the model and ÉCOLE", "model école"),
        ("_ - ★", ""),
    ],
)
def test_a_corpus_of_ones_own_keeps_the_letters_of_all_scripts(text, wanted):
    assert clean(text, ALL_SCRIPTS) == wanted


@given(st.text())
def test_a_text_of_any_script_is_clean_after_one_cleaning(text):
    once = clean(text, ALL_SCRIPTS)
    assert clean(once, ALL_SCRIPTS) == once


def test_the_splits_say_how_their_texts_were_cleaned(sample_splits, tmp_path):
    projects = [project("ab"[i % 2], title=RUSSIAN) for i in range(40)]
    splits = split(load_projects(write_corpus(tmp_path, projects), min_tag_count=1))
    assert splits.cleaning == ALL_SCRIPTS and "сеть" in splits.train.text[0]
    assert sample_splits.cleaning == LESSON


def test_an_entry_without_a_letter_is_refused_by_its_number(tmp_path):
    folder = write_corpus(tmp_path, [project("a"), project("a", title="…", description="★")])
    with pytest.raises(DataError, match=r"projects\.json: entry 1 has .* without a letter"):
        load_projects(folder, min_tag_count=1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"title": "\\ud800", "description": "b", "tags": []}]', "Invalid JSON"),
        ("[" * 100_000, "Invalid JSON: recursion limit"),
        ("[]", "should have at least 1 item"),
    ],
    ids=["half a surrogate pair", "deep", "empty list"],
)
def test_json_that_is_no_text_or_too_deep_or_empty_is_refused(tmp_path, content, message):
    folder = write_corpus(tmp_path, [project("graphs")])
    (folder / "projects.json").write_text(content)
    with pytest.raises(DataError, match=message):
        load_projects(folder)


# The split


@pytest.fixture(params=["lesson_splits", "sample_splits"])
def splits(request) -> Splits:
    return request.getfixturevalue(request.param)


def test_split_is_70_15_15(splits):
    sizes = np.array([len(splits.train), len(splits.val), len(splits.test)])
    assert sizes / sizes.sum() == pytest.approx([0.70, 0.15, 0.15], abs=0.015)


def test_split_gives_each_tag_its_share_in_every_part(splits):
    total = Counter(tag for part in (splits.train, splits.val, splits.test) for tags in part.tags for tag in tags)
    for part, share in ((splits.train, 0.70), (splits.val, 0.15), (splits.test, 0.15)):
        counts = Counter(tag for tags in part.tags for tag in tags)
        for tag, count in total.items():
            assert abs(counts[tag] - share * count) <= 2.5, (tag, counts[tag], share * count)


def test_split_loses_and_doubles_nothing(sample_projects, sample_splits):
    parts = [rows(part) for part in (sample_splits.train, sample_splits.val, sample_splits.test)]
    # The texts of the sample are distinct, so sets tell.
    assert sum(map(len, parts)) == len(set().union(*parts)) == len(sample_projects)
    assert set().union(*parts) == set(rows(sample_projects))


def test_split_loses_and_doubles_nothing_of_the_lesson(lesson_dir):
    df = load_projects(lesson_dir)
    df["text"] = [f"{text} {number}" for number, text in enumerate(df.text)]  # so that each is its own
    parts = split(df)
    texts = [*parts.train.text, *parts.val.text, *parts.test.text]
    assert sorted(texts) == sorted(df.text)


def test_same_seed_same_split_other_seed_other_split(sample_projects, sample_splits):
    again = split(sample_projects)
    for name in ("train", "val", "test"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(sample_splits, name))
    assert again.digest == sample_splits.digest and again.seed == 1234
    other = split(sample_projects, seed=1)
    assert set(other.test.text) != set(again.test.text)
    assert other.digest != again.digest and other.seed == 1


def test_the_split_does_not_depend_on_numpys_global_state(sample_projects, sample_splits):
    np.random.seed(7)
    assert split(sample_projects).digest == sample_splits.digest


def test_the_digest_changes_with_a_text_a_tag_and_a_place(sample_splits):
    s = sample_splits
    text, tags = s.test.copy(), s.test.copy()
    text.at[0, "text"] = "another text"
    tags.at[0, "tags"] = [*tags.tags[0], "another-tag"]
    changed = [
        Splits(s.train, s.val, text, s.corpus, s.seed),
        Splits(s.train, s.val, tags, s.corpus, s.seed),
        Splits(s.train, s.test, s.val, s.corpus, s.seed),
    ]
    assert len({s.digest, *(c.digest for c in changed)}) == 4
    assert len(s.digest) == 16


def test_the_splits_know_their_corpus(sample_splits, tmp_path):
    assert sample_splits.corpus == "sample"
    projects = [project("ab"[i % 2], title=f"number {i}") for i in range(40)]
    df = load_projects(write_corpus(tmp_path / "mine", projects), min_tag_count=1)
    assert split(df).corpus == "mine"
    assert split(pd.DataFrame({"text": df.text, "tags": df.tags})).corpus == "unnamed"


@pytest.mark.parametrize("count", [1, 9])
def test_too_few_projects_are_an_error(count):
    df = pd.DataFrame({"text": ["word"] * count, "tags": [["x", "y"]] * count})
    with pytest.raises(DataError, match=f"{count} rows are too few"):
        split(df)


def test_one_tag_alone_is_an_error():
    df = pd.DataFrame({"text": ["word"] * 50, "tags": [["x"]] * 50})
    with pytest.raises(DataError, match="Fewer than two tags"):
        split(df)


@given(st.lists(st.sets(st.sampled_from("abcd"), min_size=1), min_size=2, max_size=60), st.integers(0, 2**32 - 1))
def test_a_small_corpus_is_split_in_three_or_refused(tags, seed):
    df = pd.DataFrame({"text": [str(i) for i in range(len(tags))], "tags": [sorted(row) for row in tags]})
    try:
        s = split(df, seed)
    except DataError as error:
        assert "too few" in str(error) or "two tags" in str(error)
        return
    assert all(map(len, (s.train, s.val, s.test)))
    assert sorted([*s.train.text, *s.val.text, *s.test.text]) == sorted(df.text)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("tags", "a,b", r"Row 7, column 'tags': 'a,b' is no list of tags"),
        ("tags", None, "Row 7, column 'tags': None is no list of tags"),
        ("tags", [], r"Row 7, column 'tags': \[\] is no list of tags"),
        ("tags", ["a", 3], r"Row 7, column 'tags': \['a', 3\] is no list of tags"),
        ("tags", float("nan"), "Row 7, column 'tags': nan is no list of tags"),
        ("text", None, "Row 7, column 'text': None is no text"),
        ("text", float("nan"), "Row 7, column 'text': nan is no text"),
        ("text", " ", "Row 7, column 'text': ' ' is no text"),
        ("text", 3, "Row 7, column 'text': 3 is no text"),
    ],
)
def test_what_is_no_text_or_no_list_of_tags_is_refused_by_row_and_column(column, value, message):
    df = pd.DataFrame({"text": ["words"] * 20, "tags": [["a"], ["b"]] * 10}, dtype=object)
    df.at[7, column] = value
    with pytest.raises(DataError, match=message):
        split(df)


def test_ones_own_texts_are_cleaned_and_the_tagger_sees_the_same():
    text = ["Шаг, награда!", "Кадр & изображение"]
    own = split(pd.DataFrame({"text": text * 20, "tags": [["a"], ["b"]] * 20}))
    assert set(own.train.text) == {"шаг награда", "кадр изображение"} and own.cleaning == ALL_SCRIPTS
    raw = Splits(
        *[pd.DataFrame({"text": text, "tags": [["a"], ["b"]]})] * 3, corpus="raw", seed=0, cleaning=ALL_SCRIPTS
    )
    with pytest.raises(DataError, match=r"Row 0, column 'text': 'Шаг, награда!' is not clean"):
        LabelEncoder.of(raw)


def test_a_missing_column_is_named():
    with pytest.raises(DataError, match=r"each once\. See tags"):
        split(pd.DataFrame({"text": ["a"] * 20}))
    with pytest.raises(DataError, match=r"each once\. See text and tags"):
        split(pd.concat([pd.DataFrame({"text": ["a"] * 20, "tags": [["a"]] * 20})] * 2, axis=1))


@pytest.mark.parametrize("kind", [tuple, np.array, list])
def test_tags_may_come_as_a_tuple_or_an_array(kind):
    df = pd.DataFrame(
        {"text": [f"text {i}" for i in range(40)], "tags": [kind(["a", "b"][i % 2 :]) for i in range(40)]}
    )
    splits = split(df)
    assert all(isinstance(tags, list) for tags in splits.train.tags)
    assert set(splits.train.tags.explode()) == {"a", "b"}


# Splits of any columns


def table(**columns) -> pd.DataFrame:
    return pd.DataFrame({"size": [1, 2, 3], "weight": [0.5, 1.5, np.inf], "ripe": [True, False, True]} | columns)


def own_splits(part: pd.DataFrame) -> Splits:
    return Splits(part, part.head(2), part.tail(1), corpus="fruit", seed=0)


def test_splits_of_numbers_and_labels_come_back_as_they_were(tmp_path):
    part = table(name=["apple", "груша", None], pixels=[np.zeros(2), np.ones(2), np.ones(2)], when=(1, 2, 3))
    before = own_splits(part)
    before.save(tmp_path / "data.json")
    after = Splits.load(tmp_path / "data.json")
    assert after.digest == before.digest and (after.corpus, after.seed) == ("fruit", 0)
    assert list(after.train.dtypes) == list(part.dtypes)
    assert after.train.drop(columns="pixels").equals(part.drop(columns="pixels"))
    assert list(after.train.pixels) == [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize(
    "other",
    [
        table(size=[1, 2, 4]),
        table(size=[1.5, 2, 3]),
        table(ripe=[True, False, False]),
        table().rename(columns={"size": "length"}),
        table()[["weight", "size", "ripe"]],
        table(more=[1, 2, 3]),
        table().iloc[::-1],
    ],
    ids=["a value", "a float", "a boolean", "a name", "an order", "a column", "places"],
)
def test_the_digest_changes_with_all_that_a_table_holds(other):
    assert own_splits(other).digest != own_splits(table()).digest


def test_a_value_that_cannot_be_recorded_is_refused_with_its_part(tmp_path):
    splits = own_splits(table(when=pd.to_datetime(["2024-01-01"] * 3)))
    for call in (lambda: splits.digest, lambda: splits.save(tmp_path / "data.json")):
        with pytest.raises(DataError, match=r"The train split, row 0, column .* cannot be recorded"):
            call()
    assert not (tmp_path / "data.json").exists()


def test_a_bad_value_is_refused_by_row_and_column():
    for value in (pd.Timestamp("2024"), {1}, b"x", 1j, "\ud800"):
        part = table(odd=pd.Series(["fine", value, None], dtype=object))
        with pytest.raises(DataError, match=r"The train split, row 1, column 'odd': .* cannot be recorded"):
            _ = own_splits(part).digest


def test_columns_may_be_numbers_and_the_index_anything(tmp_path):
    part = pd.DataFrame(np.eye(3), index=[7, 7, 7]).assign(label=pd.Categorical(["a", "b", "a"]))
    own_splits(part).save(tmp_path / "data.json")
    after = Splits.load(tmp_path / "data.json")
    assert after.digest == own_splits(part).digest and after.train[2].tolist() == [0, 0, 1]
    pd.testing.assert_frame_equal(after.train, part.reset_index(drop=True))


@pytest.mark.parametrize("names", [["a", "a"], [("a", "b"), "c"], [None, "c"], [pd.Timestamp("2024"), "c"]], ids=str)
def test_columns_that_cannot_be_told_apart_or_named_are_refused(names):
    with pytest.raises(DataError, match="The columns of the train split are"):
        _ = own_splits(pd.DataFrame([[1, 2]] * 3, columns=pd.Index(names, dtype=object, tupleize_cols=False))).digest


@pytest.mark.parametrize(
    "changed",
    [{"corpus": 3}, {"seed": "one"}, {"aliases": [1]}, {"aliases": {"x": [3]}}, {"cleaning": "rm"}, {"source": None}]
    + [
        {"train": {"columns": ["a"], "dtypes": [dtype], "rows": [["x"]] * 50}}
        for dtype in ("S900000000", "V900000000", "M8[ns]")
    ],
    ids=str,
)
def test_a_hostile_file_of_splits_is_refused_without_the_memory(tmp_path, changed):
    path = tmp_path / "data.json"
    own_splits(table()).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(DataError, match=r"data\.json does not hold splits"):
        Splits.load(path)


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", '{"train": 3}', "[" * 100_000, "\x00"])
def test_a_file_that_holds_no_splits_is_refused_by_name(tmp_path, content):
    (tmp_path / "data.json").write_text(content)
    with pytest.raises(DataError, match=r"data\.json does not hold splits"):
        Splits.load(tmp_path / "data.json")


# The download: from a real server on this machine


class Server(ThreadingHTTPServer):
    """Serves `files`, and breaks as `fault` says: None, "404", "truncated", "wrong", "hangs", "drops"."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.fault = None
        self.requests: list[str] = []
        self.released = threading.Event()
        projects = [project("graphs", "flask", title=f"number {i}") for i in range(30)]
        self.files = {
            "/projects.json": json.dumps(projects).encode(),
            "/tags.json": b'[{"tag": "graphs"}, {"tag": "flask"}]',
        }
        self.url = f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        server = self.server
        server.requests.append(f"{self.command} {self.path}")
        if server.fault == "hangs":
            server.released.wait(20)
            return
        if server.fault == "404":
            self.send_error(404)
            return
        content = server.files[self.path]
        breaks = body and self.path == "/projects.json"
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if breaks and server.fault == "wrong":
            content = content.replace(b"graphs", b"GRAPHS")
        if breaks and server.fault in ("truncated", "drops"):
            content = content[:-100]
        if body:
            self.wfile.write(content)
        if breaks and server.fault == "drops":
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    """Stand in for the lesson's server; both hosts are fetched without a proxy."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(data, "LESSON_URL", server.url)
    sums = {name[1:]: hashlib.sha256(content).hexdigest() for name, content in server.files.items()}
    monkeypatch.setattr(data, "LESSON_SHA256", sums)
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cache(tmp_path) -> Path:
    """Give the folder that the download fills: data/ of the test's own store."""
    return tmp_path / "stores" / "data"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


def test_the_corpus_is_fetched_into_the_store(server, cache, capsys):
    df = load_projects()
    assert len(df) == 30 and df.attrs["corpus"] == "lesson"
    assert names(cache) == ["projects.json", "tags.json"]
    assert (cache / "projects.json").read_bytes() == server.files["/projects.json"]
    assert server.requests.count("GET /projects.json") == server.requests.count("GET /tags.json") == 1
    captured = capsys.readouterr()
    assert SENTENCE not in captured.out
    assert "100%" in captured.err, "no progress bar"


def test_the_corpus_is_fetched_once_only(server):
    first = load_projects()
    server.requests.clear()
    server.fault = "404"
    pd.testing.assert_frame_equal(load_projects(), first)
    assert server.requests == []


def test_the_download_shows_no_path_of_this_machine(server, cache, capsys, monkeypatch):
    logger, notes = pooch.get_logger(), io.StringIO()
    monkeypatch.setattr(logger, "handlers", [logging.StreamHandler(notes)])
    logger.setLevel("INFO")
    load_projects()
    captured = capsys.readouterr()
    assert str(cache) not in captured.out + captured.err + notes.getvalue()


@pytest.mark.parametrize("fault", ["truncated", "drops", "wrong"])
def test_a_bad_download_is_an_error_and_leaves_no_half_file(server, cache, fault):
    server.fault = fault
    with pytest.raises(DataError) as error:
        load_projects()
    assert str(cache / "projects.json") in str(error.value)
    assert "LESSON_DATA_DIR" in str(error.value)
    assert "projects.json" not in names(cache)
    assert set(names(cache)) <= {"tags.json"}, "a half-written file stays"
    server.fault = None
    assert len(load_projects()) == 30, "the next call does not recover"


@pytest.mark.parametrize(("fault", "reason"), [("404", "status 404"), ("hangs", "ReadTimeout")])
def test_a_server_that_does_not_serve_means_the_sample(server, cache, monkeypatch, capsys, fault, reason):
    monkeypatch.setattr(data, "OFFLINE_AFTER", 1)
    server.fault = fault
    started = time.monotonic()
    df = load_projects()
    assert time.monotonic() - started < 5
    assert df.attrs["corpus"] == "sample"
    assert capsys.readouterr().out == f"The lesson's corpus is out of reach ({reason}), {SENTENCE}.\n"
    assert names(cache) == []


def test_a_refused_connection_means_the_sample(server, cache, monkeypatch, capsys):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: nobody else gets this port meanwhile
        monkeypatch.setattr(data, "LESSON_URL", f"http://127.0.0.1:{closed.getsockname()[1]}/")
        df = load_projects()
    assert df.attrs["corpus"] == "sample"
    assert capsys.readouterr().out == f"The lesson's corpus is out of reach (ConnectionError), {SENTENCE}.\n"
    assert names(cache) == []
    assert "could not be fetched" in about(df)


def test_a_name_look_up_that_hangs_means_the_sample_in_time(monkeypatch, capsys):
    assert data.OFFLINE_AFTER <= 13, "without a network the corpus is decided within 15 s"
    released = threading.Event()

    def getaddrinfo(*args, **kwargs):
        released.wait(20)
        raise socket.gaierror("released")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(data, "LESSON_URL", "http://lesson.invalid/")
    monkeypatch.setattr(data, "OFFLINE_AFTER", 1)
    started = time.monotonic()
    try:
        df = load_projects()
    finally:
        released.set()
    assert time.monotonic() - started < 5
    assert df.attrs["corpus"] == "sample"
    assert "(no answer in 1 seconds)" in capsys.readouterr().out


def test_a_damaged_cached_file_is_fetched_again(server, cache):
    load_projects()
    (cache / "projects.json").write_text("[")
    server.requests.clear()
    assert len(load_projects()) == 30
    assert "GET /projects.json" in server.requests and "GET /tags.json" not in server.requests


@pytest.mark.parametrize("fault", ["404", "hangs"])
def test_a_damaged_cached_file_without_network_is_an_error_that_names_it(server, cache, monkeypatch, fault):
    load_projects()
    (cache / "projects.json").write_text("[")
    monkeypatch.setattr(data, "OFFLINE_AFTER", 1)
    server.fault = fault
    started = time.monotonic()
    with pytest.raises(DataError) as error:
        load_projects()
    assert time.monotonic() - started < 5
    assert f"{cache / 'projects.json'}: damaged" in str(error.value)
    assert "tags.json" not in str(error.value) and "Delete the file" in str(error.value)
    (cache / "projects.json").unlink()
    assert load_projects().attrs["corpus"] == "sample", "the remedy does not help"


def test_a_folder_that_holds_the_files_needs_no_network(server, tmp_path, monkeypatch):
    load_projects(write_corpus(tmp_path / "mine", [project("graphs")]), min_tag_count=1)
    monkeypatch.setenv("LESSON_DATA_DIR", str(tmp_path / "mine"))
    load_projects(min_tag_count=1)
    assert server.requests == []
