"""Clean texts: lower case, no English stop words, single spaces. The lesson's way, and one for all scripts."""

import re
import unicodedata

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

LESSON, ALL_SCRIPTS = "a-z and 0-9", "letters of all scripts"
CLEANINGS = (LESSON, ALL_SCRIPTS)
# Letters, numbers, and the marks that belong to a letter, such as the vowel signs of Devanagari.
KEPT = ("L", "N", "M")


def clean(text: str, cleaning: str = LESSON) -> str:
    """Return the clean text.

    LESSON keeps a-z and 0-9 and nothing else, as the lesson does. ALL_SCRIPTS keeps the letters and digits of
    every script: a corpus of one's own may be in any language. Stop words go last, so that a clean text stays
    as it is.
    """
    if cleaning == LESSON:
        words = re.findall("[a-z0-9]+", text.lower())
    else:
        letters = unicodedata.normalize("NFKC", text).lower()
        words = "".join(c if unicodedata.category(c)[0] in KEPT else " " for c in letters).split()
    return " ".join(word for word in words if word not in ENGLISH_STOP_WORDS)
