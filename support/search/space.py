"""What a search may try for one kind of model.

space = Space(LinearParams(), {"C": FloatDistribution(1, 100, log=True)}, trials=20)
params = space.suggest(trial)
"""

import json
from dataclasses import asdict, dataclass, replace

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.trial import Trial

from support.models import kinds as models
from support.models.params import Checked


@dataclass(frozen=True)
class Space:
    """So many trials around `base`, which is the first of them; the others take `ranges` from a distribution.

    Optuna's categorical choices are plain values: write a list as JSON, such as "[1, 2, 3]".
    Raises ValueError for params that the model has not, and for `use_val`: who has learnt from the validation
    split looks good on it.
    """

    base: Checked
    ranges: dict[str, BaseDistribution]
    trials: int

    def __post_init__(self) -> None:
        known = asdict(self.base)
        if unknown := sorted(self.ranges.keys() - known.keys()):
            names = (self.base.model, ", ".join(unknown), ", ".join(known))
            raise ValueError("A {} model has no {}. It has {}.".format(*names))
        if known.get("use_val") or "use_val" in self.ranges:
            raise ValueError("A search chooses on the validation split: leave use_val off until it is over.")

    def suggest(self, trial: Trial) -> Checked:
        """Let Optuna choose the params of a trial."""
        chosen = {name: _suggest(trial, name, values) for name, values in self.ranges.items()}
        return replace(self.base, **{name: _plain(value) for name, value in chosen.items()})

    def first(self) -> dict:
        """Give `base` as a trial's params."""
        values = {name: getattr(self.base, name) for name in self.ranges}
        return {name: json.dumps(v) if isinstance(v, list) else v for name, v in values.items()}

    def to_dict(self) -> dict:
        """Give all of it as JSON can hold it."""
        ranges = {name: json.loads(distribution_to_json(values)) for name, values in self.ranges.items()}
        return {"base": asdict(self.base), "ranges": ranges, "trials": self.trials}

    @classmethod
    def from_dict(cls, values: dict) -> "Space":
        """Make what `to_dict` gave."""
        ranges = {name: json_to_distribution(json.dumps(found)) for name, found in values["ranges"].items()}
        base = models.TAGGERS[values["base"]["model"]].PARAMS.from_dict(values["base"])
        return cls(base, ranges, values["trials"])


def _suggest(trial: Trial, name: str, values: BaseDistribution) -> object:
    match values:
        case FloatDistribution():
            return trial.suggest_float(name, values.low, values.high, step=values.step, log=values.log)
        case IntDistribution():
            return trial.suggest_int(name, values.low, values.high, step=values.step, log=values.log)
        case CategoricalDistribution():
            return trial.suggest_categorical(name, values.choices)
    raise TypeError(f"{name} is a {type(values).__name__}, and not one of Optuna's distributions.")


def _plain(value: object) -> object:
    return json.loads(value) if isinstance(value, str) and value.startswith("[") else value
