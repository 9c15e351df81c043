"""A run's files are known again: what was changed since is not read."""


@pytest.fixture(scope="module")
def run_ids(sample_splits, tmp_path_factory) -> list[str]:
    """Give two runs of one store."""
    tracking.connect(tmp_path_factory.mktemp("stores"))
    params = [Params(**{**vars(SMALL), "seed": seed}) for seed in (1, 2)]
    return [tracking.train_and_log(each, sample_splits) for each in params]


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_of_a_run_is_found(run_ids, name):
    path = path_of(run_ids[0], name)
    content = path.read_bytes()
    flipped = bytes([content[0] ^ 1]) + content[1:]
    with_space = content + b" "  # loads as well as before, and yet is not what was logged
    swapped = path_of(run_ids[1], name).read_bytes() + (b"" if name in ("params.json", "model.pt") else b" ")
    try:
        for bad in (flipped, content[:-1], with_space, swapped, b""):
            path.write_bytes(bad)
            with pytest.raises(ArtifactError, match=rf"{run_ids[0]}: {name} is not the file that was logged"):
                tracking.load_tagger(run_ids[0])
        path.unlink()
        with pytest.raises(tracking.NoRunError, match=run_ids[0]):
            tracking.load_tagger(run_ids[0])
    finally:
        path.write_bytes(content)
    assert tracking.load_tagger(run_ids[0]).predict_proba(TEXTS).shape[0] == 1


@pytest.mark.parametrize("tag", ["[]", "{", '{"model.pt": "00"}', "null"])
def test_damaged_digests_are_refused(run_ids, tag):
    client = mlflow.MlflowClient()
    before = mlflow.get_run(run_ids[0]).data.tags[artifacts.DIGESTS]
    client.set_tag(run_ids[0], artifacts.DIGESTS, tag)
    with pytest.raises(ArtifactError, match=run_ids[0]):
        tracking.load_tagger(run_ids[0])
    client.set_tag(run_ids[0], artifacts.DIGESTS, before)


@pytest.mark.parametrize("run_id", ["", "..", "../../etc", "0" * 32, "a/b", "no run"])
def test_names_that_are_no_run(run_ids, run_id):
    with pytest.raises(tracking.NoRunError):
        tracking.load_tagger(run_id)


def path_of(run_id: str, name: str) -> Path:
    uri = mlflow.get_run(run_id).info.artifact_uri
    return Path(uri.removeprefix("file://")) / name
