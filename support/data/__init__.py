"""The corpus: fetched, cleaned, filtered as the lesson does, and split in three.

df = load_projects()           # columns: text (clean), tags (list of str)
splits = split(df, seed=1234)  # .train .val .test
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "cleaning": ["clean"],
        "corpus": ["about", "load_projects"],
        "splits": ["DataError", "Splits", "split"],
    },
)
