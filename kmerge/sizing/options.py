"""The options of an `AutoSizer`, checked once, and kept and saved as they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import keras
import numpy as np

from kmerge import checks
from kmerge.regularizers import PENALTIES, UnitRegularizer

_OF = "AutoSizer"


@dataclass(frozen=True)
class SizingOptions:
    """How an `AutoSizer` sizes: its arguments of the same names, which say what each is, but for the model and alpha.

    Raises:
        InvalidArgumentError: if an option is out of its range.
    """

    penalty: str | UnitRegularizer = "weighted_l1"
    growth: float | str = 0.2
    min_growth: int = 20
    threshold: float = 1e-3
    period: int = 1
    period_steps: int | None = None
    min_units: int = 1
    max_units: int | None = None
    grow: bool = True
    prune: str = "period"
    optimizer_state: str = "carry"
    proximal: bool = False
    spaces: Sequence[str] | None = None
    seed: int = 0

    def __post_init__(self):
        if not isinstance(self.penalty, UnitRegularizer):
            do = "Or give an instance of a class of kmerge.regularizers."
            checks.one_of("penalty", self.penalty, tuple(PENALTIES), of=_OF, do=do)
        self._check_growth()
        units_below = "Units below the threshold (tau) are dropped, and new units have its size."
        checks.number("threshold", self.threshold, above=0, of=_OF, do=units_below)
        for name, least in (("min_growth", 0), ("period", 1), ("min_units", 1)):
            checks.whole_number(name, getattr(self, name), least, of=_OF)
        checks.whole_number("period_steps", self.period_steps, optional=True, of=_OF)
        checks.whole_number("max_units", self.max_units, self.min_units, optional=True, of=_OF)
        checks.one_of("prune", self.prune, ("period", "end", "never"), of=_OF)
        if self.growth == "adaptive" and self.prune != "period":
            checks.refuse(
                "prune", '"period" with growth="adaptive", which looks at which new units stay', self.prune, of=_OF
            )
        checks.one_of("optimizer_state", self.optimizer_state, ("carry", "restart"), of=_OF)
        checks.seed("seed", self.seed, of=_OF)
        for name in ("grow", "proximal"):
            checks.flag(name, getattr(self, name), of=_OF)
        spaces = () if self.spaces is None else [self.spaces] if isinstance(self.spaces, str) else self.spaces
        for name in checks.sequence("spaces", spaces, "a list of names of spaces", of=_OF):
            checks.text("the name of a space", name, of=_OF)

    def _check_growth(self) -> None:
        is_share = checks.is_number(self.growth) and self.growth >= 0
        if not is_share and not (isinstance(self.growth, str) and self.growth == "adaptive"):
            checks.refuse("growth", 'a share of the units, 0 or more, or "adaptive"', self.growth, of=_OF)

    @property
    def regularizer(self) -> UnitRegularizer:
        """The penalty as a regularizer, whose own strength does not count."""
        return self.penalty if isinstance(self.penalty, UnitRegularizer) else PENALTIES[self.penalty](1.0)

    def get_config(self) -> dict:
        """The options, ready for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values = {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
        spaces = values["spaces"] if isinstance(self.spaces, str | None) else list(self.spaces)
        return {**values, "penalty": keras.saving.serialize_keras_object(self.penalty), "spaces": spaces}

    @classmethod
    def from_config(cls, config: Mapping) -> "SizingOptions":
        """The options of a configuration.

        Args:
            config: what `get_config` returned.
        """
        return cls(**{**config, "penalty": keras.saving.deserialize_keras_object(config["penalty"])})


def check_alpha(alpha: object) -> float:
    """The strength of a penalty as a float; raises unless it is a positive number."""
    do = "Give a function of the epoch for one that changes; train with kmerge.fit for no penalty."
    return float(checks.number("alpha", alpha, above=0, of=_OF, do=do))
