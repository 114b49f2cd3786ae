"""When an `AutoSizer` adds and drops units, and how many units a space is offered at the start of a period.

The fixed rule is the paper's: a share of the units there are, but at least so many. The adaptive one looks at what became of
the last offer to a space:

    at least 3/4 of the new units stayed    twice as many, but no more than the space has
    at most 1/4 stayed                      half as many
    else                                    as many again

One is offered at least, also where a limit on the size left nothing to offer. So a space that has found its size costs next
to nothing to test, and one that is too narrow doubles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kmerge.batching import map_arrays
from kmerge.checks import is_whole_number, sentence, whole_number, whole_numbers
from kmerge.errors import InvalidArgumentError
from kmerge.sizing.options import SizingOptions
from kmerge.training import EpochPlan, arrays_of, is_array

# The first offer of the adaptive rule, as a share of the units: the paper's.
_FIRST = 0.2
_MANY, _FEW = 0.75, 0.25


@dataclass(frozen=True)
class Schedule:
    """What happens in which epoch, counted from 0.

    Attributes:
        dynamic: number of dynamic epochs.
        static: number of those after them.
        start: the first to run.
        options: say how long a period is, and whether units are added and dropped in it.
        validation_freq: after every how many epochs the model is validated, or after which ones, counted from 1.
    """

    dynamic: int
    static: int
    start: int
    options: SizingOptions
    validation_freq: int | Sequence[int] = 1

    def __post_init__(self):
        for name, epochs in (("epochs", self.dynamic), ("static_epochs", self.static), ("initial_epoch", self.start)):
            whole_number(name, epochs, 0)
        often, of = self.validation_freq, "AutoSizer.fit"
        if isinstance(often, Sequence | np.ndarray) and not isinstance(often, str | bytes):
            whole_numbers("validation_freq", often, of=of)
        else:
            whole_number("validation_freq", often, of=of)

    def validates(self, epoch: int) -> bool:
        """Whether the model is validated after it."""
        often = self.validation_freq
        return (epoch + 1) % often == 0 if is_whole_number(often) else epoch + 1 in often

    def is_dynamic(self, epoch: int) -> bool:
        """Whether units may come and go."""
        return epoch < self.dynamic

    def grows(self, epoch: int) -> bool:
        """Whether units are added before it."""
        return self.is_dynamic(epoch) and self.options.grow and (self._in_steps or epoch % self.options.period == 0)

    def prunes(self, epoch: int, last_part: bool) -> bool:
        """Whether units are dropped after it, or after a part of it."""
        last = epoch == self.dynamic - 1 and last_part
        ends = self.options.prune == "period" and (self._in_steps or (epoch + 1) % self.options.period == 0)
        return self.is_dynamic(epoch) and (ends or last and self.options.prune != "never")

    @property
    def _in_steps(self) -> bool:
        return self.options.period_steps is not None

    def parts(self, epoch: int, data: Mapping) -> list[dict]:
        """The data of an epoch, period by period: the arguments of `fit`."""
        if not self.validates(epoch):
            data = {**data, "validation_data": None}
        if not self._in_steps or not self.is_dynamic(epoch):
            return [dict(data)]
        kinds = ("x", "y", "sample_weight")
        arrays = arrays_of([data[name] for name in kinds])
        if not all(map(is_array, arrays)):
            other = next(array for array in arrays if not is_array(array))
            do = "Give a period in epochs."
            raise InvalidArgumentError(sentence("data in arrays for a period in steps", type(other).__name__, do))
        plan = EpochPlan(data["batch_size"], range(0), data["shuffle"], 0)
        order = plan.order(len(arrays[0]), data["seed"], epoch)
        size = self.options.period_steps * data["batch_size"]
        cuts = [order[start : start + size] for start in range(0, len(order), size)]
        last = {**data, "shuffle": False, "validation_data": None}
        taken = [{**last, **{name: _taken(data[name], cut) for name in kinds}} for cut in cuts]
        taken[-1]["validation_data"] = data["validation_data"]
        return taken


def _taken(data: object, indices: np.ndarray) -> object:
    return map_arrays(lambda array: np.asarray(array)[indices], data)


def next_sizes(sizes: Mapping[str, int], options: SizingOptions, history: Sequence[Mapping]) -> dict[str, int]:
    """The sizes after units are added.

    Args:
        sizes: the current ones.
        options: the rule and its limits.
        history: of sizes, as an `AutoSizer` keeps it.
    """
    if options.growth == "adaptive":
        grown = adapted_sizes(sizes, options.min_growth, history)
    else:
        grown = grown_sizes(sizes, options.growth, options.min_growth)
    return grown if options.max_units is None else limited_sizes(sizes, grown, options.max_units)


def grown_sizes(sizes: Mapping[str, int], growth: float, min_growth: int) -> dict[str, int]:
    """The sizes after units are added: a share of each, rounded down, but at least so many."""
    return {name: n + max(int(n * growth), min_growth) for name, n in sizes.items()}


def limited_sizes(sizes: Mapping[str, int], grown: Mapping[str, int], max_units: int) -> dict[str, int]:
    """The sizes after units are added, but to no space beyond so many; one that has more keeps its size."""
    return {name: max(n, min(grown[name], max_units)) for name, n in sizes.items()}


def adapted_sizes(sizes: Mapping[str, int], min_growth: int, history: Sequence[Mapping]) -> dict[str, int]:
    """The sizes after units are added by the adaptive rule.

    Args:
        sizes: the current ones.
        min_growth: the least of the first offer.
        history: of sizes, as an `AutoSizer` keeps it. The last record with "stayed" describes the last offer.
    """
    last = next((record for record in reversed(history) if "stayed" in record), None)
    if last is None:
        return grown_sizes(sizes, _FIRST, max(min_growth, 1))
    return {name: n + _next(last["new"][name], last["stayed"][name], n) for name, n in sizes.items()}


def _next(offered: int, stayed: int, units: int) -> int:
    if stayed >= _MANY * offered:
        offer = max(min(2 * offered, units), offered)
    else:
        offer = offered // 2 if stayed <= _FEW * offered else offered
    return max(offer, 1)
