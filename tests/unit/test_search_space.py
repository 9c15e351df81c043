"""The space of a search, when it is over, and its pictures: with Optuna in memory."""

import time
from dataclasses import dataclass

import matplotlib.pyplot as plt
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial, TrialState, create_trial
from small import SMALL

from support.models.linear import LinearParams
from support.models.params import Params
from support.search import plots
from support.search.space import Space
from support.search.worker import Worker
from support.tracking.orphans import this_process

C = {"C": FloatDistribution(1, 100, log=True)}
STATES = {"pruned": TrialState.PRUNED, "failed": TrialState.PRUNED, "running": TrialState.RUNNING}


def test_a_space_suggests_params_within_its_ranges_and_keeps_the_rest():
    space = Space(
        Params(**SMALL),
        {
            "lr": FloatDistribution(1e-3, 1e-1, log=True),
            "num_filters": IntDistribution(4, 12, step=4),
            "filter_sizes": CategoricalDistribution(["[1, 2, 3]", "[1, 2]"]),
        },
        trials=2,
    )
    params = space.suggest(FixedTrial({"lr": 0.02, "num_filters": 12, "filter_sizes": "[1, 2]"}))
    assert params == Params(**{**SMALL, "lr": 0.02, "num_filters": 12, "filter_sizes": [1, 2]})
    assert space.suggest(FixedTrial(space.first())) == Params(**SMALL)
    assert Space.from_dict(space.to_dict()) == space
    study = optuna.create_study()
    study.optimize(lambda trial: space.suggest(trial).lr, n_trials=3)
    assert study.trials[0].distributions == space.ranges


def test_a_space_that_cannot_be_searched_is_refused():
    @dataclass(frozen=True)
    class Local:
        C: float = 1.0
        trained_by = "nowhere:train"

    with pytest.raises(ValueError, match="leave use_val off"):
        Space(LinearParams(use_val=True), {}, 1)
    with pytest.raises(ValueError, match="leave use_val off"):
        Space(LinearParams(), {"use_val": CategoricalDistribution([True, False])}, 1)
    with pytest.raises(ValueError, match=r"LinearParams has no lr\. It has word_ngrams"):
        Space(LinearParams(), {"lr": FloatDistribution(0, 1)}, 1)
    with pytest.raises(ValueError, match="`trained_by`"):
        Space({"C": 1}, C, 1)
    with pytest.raises(ValueError, match="one trial or more, and not 0"):
        Space(LinearParams(), C, 0)
    with pytest.raises(ValueError, match="Write it into a file"):
        Space(Local(), C, 1).to_dict()


@pytest.mark.parametrize(
    ("outcomes", "has_room", "is_over"),
    [
        ([], True, False),
        ([0.5, "pruned"], True, False),  # the patience is 2
        ([0.5, 0.4, 0.5], False, True),
        ([0.5, "pruned", "failed"], False, True),
        (["failed", "failed"], True, False),
        (["failed", "failed", "failed"], False, True),
        ([0.1, 0.2, 0.3, 0.4], True, False),
        ([0.1, 0.2, 0.3, 0.4, 0.5], False, True),  # it has five trials
        ([0.1, 0.2, 0.3, 0.4, "running"], False, False),
        ([0.1, "running", "running"], True, False),
        ([0.5, 0.4, 0.3, "running"], False, False),
    ],
)
def test_a_search_is_over_when_all_is_tried_or_nothing_better_comes(outcomes, has_room, is_over):
    study = optuna.create_study(direction="maximize")
    for outcome in outcomes:
        state = STATES.get(outcome, TrialState.COMPLETE)
        attributes = {"user_attrs": {"process": "host boot 1 2"}}
        if state == TrialState.COMPLETE:
            attributes = {"value": outcome}
        study.add_trial(create_trial(state=state, params={"C": 2}, distributions=C, **attributes))
    config = {"patience": 2, "until": time.monotonic() + 60, "owner": "host boot 1 2"}
    worker = Worker("linear", Space(LinearParams(), C, 5), None, study, None, config)
    assert (worker.has_room(), worker.is_over()) == (has_room, is_over)
    assert not worker.stop()
    config["owner"] = this_process().rsplit(" ", 1)[0] + " 1"
    assert worker.stop()


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_pictures_show_every_measured_trial_and_leave_the_style_alone():
    study = optuna.create_study(direction="maximize")
    assert plots.draw(study, "linear", "val_f1") == {}
    ranges = {**C, "use": CategoricalDistribution(["a", "b"])}
    for value, use in ((0.1, "a"), (0.5, "b"), (0.3, "a"), (0.2, "b")):
        study.add_trial(create_trial(params={"C": 10 * value, "use": use}, distributions=ranges, value=value))
    background = plt.rcParams["axes.facecolor"]
    figures = plots.draw(study, "linear", "val_f1")
    assert figures.keys() == {"parallel_coordinates", "importance"}
    assert {figure.axes[0].get_title() for figure in figures.values()} == {"linear: 4 measured trials"}
    [lines] = figures["parallel_coordinates"].axes[0].collections
    assert len(lines.get_segments()) == 4
    [axes] = figures["importance"].axes
    assert {label.get_text() for label in axes.get_yticklabels()} == {"C", "use"}
    assert sum(bar.get_width() for bar in axes.patches) == pytest.approx(1)
    assert plt.rcParams["axes.facecolor"] == background
    assert plt.get_fignums() == []
