"""A model that trains in a second and has every part of the lesson's."""

SMALL = {"embedding_dim": 16, "num_filters": 8, "filter_sizes": [1, 2, 3], "hidden_dim": 16, "lr": 0.01}
