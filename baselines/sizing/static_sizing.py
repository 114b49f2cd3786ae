"""Networks of a fixed size, held against auto-sizing: what is gained by sizing, and what by the sizes alone?

Reference: Cahlik, Kordik and Cepek, "Adapting the size of artificial neural networks using dynamic auto-sizing", table II.

- `static_a`: the sizes that `auto_sizing` found, trained from the start without a penalty.
- `static_b`: as many parameters, but all convolutions as wide as each other; the Dense layers keep the sizes found. In a
  network of Dense layers alone, all are as wide as each other.
- `static_adam_restart`: `static_a`, whose Adam is restarted before each epoch of the dynamic part, as the authors' code
  does it by accident in every pruning row and in no static one: state zero, step counter old.

All train for the epochs of one network in one go, with Adam at a constant learning rate of their own. Static networks
with a penalty are in `auto_sizing`.

What differs: sizes are those of the same seed, where the paper took the mean over its folds; to find them is charged, the
training of a network that is thrown away: rows say `search_flops`, and what is left is what the paper reports.
"""

from collections.abc import Mapping
from dataclasses import replace

import keras
import numpy as np

from baselines.protocol.outcomes import make_outcome
from baselines.protocol.phases import train_phase
from baselines.protocol.strategy import Outcome, Stages
from baselines.protocol.task import Budget, Phase, Task
from baselines.protocol.teachers import check_budget
from baselines.sizing.auto_sizing import found_network, fresh_network, settings_of, sizing_extras
from kmerge.costs import WidthCosts
from kmerge.seeds import seed_of
from kmerge.spaces import Trace, trace

# By strategy: how tables and figures name it, and whom they cite; see `benchmarks.strategies.labels`.
LABELS = {
    "static_a": ("Static sizes found", "cahlik2022"),
    "static_b": ("Static sizes, equal widths", "cahlik2022"),
    "static_adam_restart": ("Static sizes found, Adam restarted", None),
}
_BETA_1 = 0.9
# All that an Adam has besides its state; to keep the counter is what makes the restarted steps large.
_NO_STATE = ("iteration", "learning_rate")


def static_a(task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
    """The sizes found, from the start; see `Strategy`."""
    return _static("static_a", task, budget, seed, stages)


def static_b(task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
    """Equal widths with the parameters of the sizes found; see `Strategy`."""
    return _static("static_b", task, budget, seed, stages)


def static_adam_restart(task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
    """The sizes found, with an Adam that is restarted as the paper's; see `Strategy`."""
    return _static("static_adam_restart", task, budget, seed, stages)


def _static(name: str, task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
    settings = settings_of(task, name)
    check_budget(name, budget.single > 1, "2 epochs at least, as the search has a dynamic and a static one", budget)
    found, search = found_network(task, budget, seed, stages)
    sizes = equal_widths(trace(found.model)) if name == "static_b" else found.sizes
    model = fresh_network(task, sizes, seed_of(name, seed))
    restarts = round(settings.dynamic * budget.single) if name == "static_adam_restart" else 0
    phase = Phase(settings.learning_rate_of(name), _BETA_1, settings.batch_size, optimizer="adam")
    there = replace(task, phases={"static": phase})
    callbacks = [AdamRestart(restarts)] if restarts else []
    record = train_phase(model, there, "static", budget.single, seed, stages, label=name, callbacks=callbacks)
    records = [search, record]
    return make_outcome(task, model, record.best_weights, records, sizing_extras(sizes, records, searched=True))


def equal_widths(walked: Trace) -> Mapping[str, int]:
    """The widths of a network in which all convolutions are as wide as each other, with as many parameters as can be.

    Args:
        walked: the walk of a network.

    Returns:
        Units of each selectable channel space: those of Dense layers as they are, if there are others, and for the rest
        the one width that brings the number of parameters nearest to that of the network.
    """
    sizes = {space.name: space.size for space in walked.spaces.selectable}
    equal = [space.name for space in walked.spaces.selectable if not _is_dense(walked, space)] or list(sizes)
    costs = WidthCosts(walked)
    wanted = costs.parameters(sizes)

    def widths(width: int) -> dict[str, int]:
        return sizes | dict.fromkeys(equal, width)

    low, high = 1, max(sizes.values())
    # Equal widths have at most the parameters of the largest one everywhere: bisect.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if costs.parameters(widths(middle)) <= wanted else (low, middle)
    return min((widths(low), widths(high)), key=lambda each: abs(costs.parameters(each) - wanted))


def _is_dense(walked: Trace, space) -> bool:
    return any(isinstance(walked.layers[owner], keras.layers.Dense) for owner in space.owners)


class AdamRestart(keras.callbacks.Callback):
    """Sets the state of an optimizer to zero before epochs, but not its step counter.

    Args:
        epochs: before how many, from the second on.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs

    def on_epoch_begin(self, epoch, logs=None):
        if 0 < epoch < self.epochs:
            for variable in self.model.optimizer.variables:
                if variable.name not in _NO_STATE:
                    variable.assign(np.zeros(variable.shape, variable.dtype))
