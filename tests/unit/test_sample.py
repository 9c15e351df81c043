"""The sample corpus that ships with support/ keeps its promises: large, natural, with the lesson's tags."""

import json
import re
from collections import Counter

import pytest

from support.data.cleaning import clean
from support.data.corpus import SAMPLE_DIR, about, load_projects

# The tags that the lesson's filter leaves of the lesson's corpus.
LESSON_TAGS = [
    "attention",
    "autoencoders",
    "computer-vision",
    "convolutional-neural-networks",
    "data-augmentation",
    "embeddings",
    "flask",
    "generative-adversarial-networks",
    "graph-neural-networks",
    "graphs",
    "huggingface",
    "image-classification",
    "interpretability",
    "keras",
    "language-modeling",
    "natural-language-processing",
    "node-classification",
    "object-detection",
    "pretraining",
    "production",
    "pytorch",
    "question-answering",
    "regression",
    "reinforcement-learning",
    "representation-learning",
    "scikit-learn",
    "segmentation",
    "self-supervised-learning",
    "tensorflow",
    "tensorflow-js",
    "time-series",
    "transfer-learning",
    "transformers",
    "unsupervised-learning",
    "wandb",
]


@pytest.fixture(scope="module")
def entries() -> list[dict]:
    return json.loads((SAMPLE_DIR / "projects.json").read_text(encoding="utf-8"))


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def test_the_list_of_lesson_tags_is_the_lessons(lesson_dir):
    assert sorted(load_projects(lesson_dir).tags.explode().unique()) == sorted(LESSON_TAGS)


def test_at_least_480_entries_are_left_and_all_differ(sample_projects, entries):
    assert len(sample_projects) >= 480
    assert sample_projects.text.is_unique
    for field in ("title", "description"):
        counts = Counter(" ".join(words(entry[field])) for entry in entries)
        assert [text for text, count in counts.items() if count > 1] == []


def test_at_least_16_of_the_lessons_tags_have_30_entries_and_no_other_tag_is_left(sample_projects):
    counts = Counter(tag for tags in sample_projects.tags for tag in tags)
    assert set(counts) <= set(LESSON_TAGS)
    assert len(counts) >= 16 and min(counts.values()) >= 30


def test_an_entry_has_two_to_three_tags_on_average(sample_projects):
    assert 2 <= sample_projects.tags.str.len().mean() <= 3


def test_every_tag_of_an_entry_is_listed_and_stands_once(entries):
    listed = [entry["tag"] for entry in json.loads((SAMPLE_DIR / "tags.json").read_text(encoding="utf-8"))]
    assert len(listed) == len(set(listed))
    for entry in entries:
        assert len(entry["tags"]) == len(set(entry["tags"])), entry["title"]
        assert set(entry["tags"]) <= set(listed), entry["title"]


def test_no_template_is_filled_in(entries):
    """Count the entries, not the times, that share six words in a row; a few may, by chance or idiom."""
    shared = Counter()
    for entry in entries:
        text = words(f"{entry['title']} {entry['description']}")
        shared.update({tuple(text[i : i + 6]) for i in range(len(text) - 5)})
    assert [" ".join(run) for run, count in shared.items() if count > 3] == []


def test_no_two_entries_open_alike_too_often(entries):
    """A template shows at the start: no three first words open more than one entry in fifty."""
    opening = Counter(tuple(words(entry["description"])[:3]) for entry in entries)
    (first, count), *_ = opening.most_common(1)
    assert count <= len(entries) / 50, " ".join(first)


def test_an_entry_reads_like_an_announcement(entries):
    for entry in entries:
        assert 1 <= len(words(entry["title"])) <= 15, entry["title"]
        assert 8 <= len(words(entry["description"])) <= 60, entry["title"]
        assert entry["description"].strip()[-1] in ".!?", entry["title"]
        assert len(clean(entry["description"]).split()) >= 4, entry["title"]


def test_it_is_in_the_lessons_format(entries, lesson_dir):
    theirs = json.loads((lesson_dir / "projects.json").read_text(encoding="utf-8"))
    assert {tuple(sorted(entry)) for entry in entries} == {tuple(sorted(entry)) for entry in theirs}
    assert len({entry["id"] for entry in entries}) == len(entries)


def test_it_is_not_taken_from_the_lesson(entries, lesson_dir):
    theirs = json.loads((lesson_dir / "projects.json").read_text(encoding="utf-8"))
    for field in ("title", "description"):
        known = {" ".join(words(entry[field])) for entry in theirs}
        assert [entry[field] for entry in entries if " ".join(words(entry[field])) in known] == []


def test_it_says_what_it_is(sample_projects):
    assert sample_projects.attrs["corpus"] == "sample"
    assert about(sample_projects).startswith("The sample corpus of this project")
