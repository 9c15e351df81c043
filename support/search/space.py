"""What a search may try: params to start from, and Optuna's ranges for some of them.

space = Space(LinearParams(), {"C": FloatDistribution(1, 100, log=True)}, trials=20)
params = space.suggest(trial)
"""

import json
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Any, Self

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.trial import Trial

from support.models.params import name_of, resolve


@dataclass(frozen=True)
class Space:
    """So many trials: the first has the params `base`, the others take those in `ranges` from Optuna.

    `base` is any params dataclass with `trained_by`, the "module:name" of the function that trains by them.
    A categorical choice is a plain value: write a list as JSON, such as "[1, 2, 3]".

    Raise ValueError for params that `base` does not have, and for `use_val`: a model that has learned from
    the validation split looks good on it.
    """

    base: Any
    ranges: dict[str, BaseDistribution]
    trials: int

    def __post_init__(self) -> None:
        if not is_dataclass(self.base) or not hasattr(self.base, "trained_by"):
            raise ValueError("The base of a space must be a params dataclass with `trained_by`.")
        known = asdict(self.base)
        if unknown := sorted(self.ranges.keys() - known.keys()):
            name = type(self.base).__name__
            raise ValueError(f"{name} has no {', '.join(unknown)}. It has {', '.join(known)}.")
        if known.get("use_val") or "use_val" in self.ranges:
            raise ValueError("A search chooses on the validation split: leave use_val off until it is over.")
        if self.trials < 1:
            raise ValueError(f"A space needs one trial or more, and not {self.trials}.")

    def first(self) -> dict[str, Any]:
        """Return the params of the first trial, as Optuna holds them."""
        values = {name: getattr(self.base, name) for name in self.ranges}
        return {name: json.dumps(v) if isinstance(v, list | tuple) else v for name, v in values.items()}

    def suggest(self, trial: Trial) -> Any:
        """Return params that Optuna chooses. Raise ValueError for values that they do not take."""
        chosen = {}
        for name, values in self.ranges.items():
            written = json.loads(distribution_to_json(values))  # such as FloatDistribution, and low, high, log
            kind = written["name"].removesuffix("Distribution").lower()
            value = getattr(trial, f"suggest_{kind}")(name, **written["attributes"])
            if isinstance(value, float):
                value = float(f"{value:.3g}")  # a reader sees it, and more digits decide nothing
            chosen[name] = json.loads(value) if isinstance(value, str) and value.startswith("[") else value
        return replace(self.base, **chosen)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it. Raise ValueError where another process could not import `base`."""
        ranges = {name: distribution_to_json(values) for name, values in self.ranges.items()}
        base = {"params": name_of(type(self.base)), "base": asdict(self.base)}
        return {**base, "ranges": ranges, "trials": self.trials}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Return the space that `to_dict` has written."""
        ranges = {name: json_to_distribution(written) for name, written in values["ranges"].items()}
        return cls(resolve(values["params"])(**values["base"]), ranges, values["trials"])
