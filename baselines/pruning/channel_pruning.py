"""Channel pruning: train a network of twice the width, cut it down little by little, fine-tune.

Reference: Molchanov et al., "Importance estimation for neural network pruning", CVPR 2019; the rival that "Merging of
neural networks" (Pašen and Boža) names for its 2/3 + 1/6 + 1/6 of the budget. The importances that are options: L1 norms
(Li et al., "Pruning filters for efficient ConvNets", ICLR 2017), scales of BatchNormalization (Network Slimming, ICCV
2017), geometric median (FPGM, CVPR 2019), and chance.

    |---------- wide 2/3: schedule "single" ----------|- prune 1/6: schedule "gates" -|- finetune 1/6 -|
                                                      cut, train, cut, train, ... cut, train

What differs from Molchanov et al.:

- Their network is trained before and given; ours is trained within the budget, and is twice as wide as the target.
- They cut some hundred times, every few steps; we cut before each epoch of the phase, at most `MOST_CUTS` times in
  equal intervals. Each cut takes an equal part of the units of every space ("target"), or of the parameters ("global").
- They average importance over the training steps between two cuts; we measure it at each cut on up to
  2,000 training examples, in inference. No weight changes by that, and it is charged as operations.
- Their importance has gates behind BatchNormalization; ours has them where other layers read the unit, which is the same
  where a ReLU and one reader follow, and counts all readers of a residual stream.
- "global" ranks Taylor importance of all spaces as it is, as they do; any other is divided by its mean in the space.
- The optimizer starts anew after each cut, at the learning rate that the schedule has then.
"""

from dataclasses import dataclass, replace

import keras
import numpy as np

import kmerge
from baselines.protocol.outcomes import make_outcome, validation_metric
from baselines.protocol.phases import train_phase
from baselines.protocol.schedules import stretch_of
from baselines.protocol.strategy import Outcome, Stages
from baselines.protocol.task import Budget, Task
from baselines.protocol.teachers import check_budget
from baselines.pruning.measured_importance import check_importance, measure_importance
from kmerge.checks import one_of
from kmerge.pruning import best_units
from kmerge.seeds import seed_of

# By strategy: how tables and figures name it, and whom they cite; see `benchmarks.strategies.labels`.
LABELS = {
    "channel_pruning": ("Channel pruning, Taylor", "molchanov2019"),
    "channel_pruning_global": ("Channel pruning, Taylor, global", "molchanov2019"),
    "channel_pruning_l1": ("Channel pruning, L1", "li2017"),
    "channel_pruning_bn": ("Channel pruning, scales", "liu2017"),
    "channel_pruning_random": ("Channel pruning, random", None),
    "channel_pruning_fpgm": ("Channel pruning, FPGM", "he2019"),
}
MOST_CUTS = 10
_WIDEN = 2


@dataclass(frozen=True)
class ChannelPruning:
    """A network of twice the width, its channels cut little by little, fine-tuned; a `Strategy`.

    Attributes:
        importance: one of those of `kmerge.unit_importance` other than "gates".
        to: "target", every space to the target's width; or "global", the whole network to at most the target's number
            of parameters, by one ranking of all units: the result then has another shape than the target.
    """

    importance: str = "taylor"
    to: str = "target"

    def __call__(self, task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
        """See `Strategy`."""
        name = "Channel pruning"
        check_budget(
            name, budget.gates > 1, "at least 2 epochs for the gates, in which it cuts little by little", budget
        )
        wide, target = task.build(seed_of("wide", seed), widen=_WIDEN), task.build(seed_of("target"))
        self._check(wide)
        trained = train_phase(wide, task, "single", 2 * budget.teacher, seed, stages, label="wide")
        cuts = min(MOST_CUTS, budget.gates)
        ends = [round(budget.gates * cut / cuts) for cut in range(cuts + 1)]
        model, records, rows = wide, [trained], {"validation_before_cut": trained.rows[-1]["val_metric"]}
        for cut in range(1, cuts + 1):
            found, flops = measure_importance(model, task, self.importance, seed_of("importance", seed, cut))
            model = kmerge.select(model, self._choice(model, found, wide, target, cut / cuts))
            if cut == cuts:
                rows["validation_after_cut"] = validation_metric(task, model)
            part = stretch_of(task.phases["gates"], ends[cut - 1] / budget.gates, ends[cut] / budget.gates)
            there = replace(task, phases={**task.phases, "gates": part})
            epochs = ends[cut] - ends[cut - 1]
            record = train_phase(model, there, "gates", epochs, seed, stages, label=f"prune_{cut}")
            records.append(replace(record, flops=record.flops + flops))
        tuned = train_phase(model, task, "finetune", budget.finetune, seed, stages)
        return make_outcome(task, model, tuned.best_weights, [*records, tuned], {"cuts": cuts, **rows})

    def _check(self, wide: keras.Model) -> None:
        one_of("to", self.to, ("target", "global"), of="ChannelPruning")
        check_importance(wide, self.importance)

    def _choice(self, model, importance: dict, wide: keras.Model, target: keras.Model, done: float) -> dict:
        """The units that stay after a cut, when `done` of the way from the wide network to the target is gone."""
        if self.to == "global":
            most, least = kmerge.parameters(wide), kmerge.parameters(target)
            budget = kmerge.Budget(parameters=round(most - (most - least) * done))
            if self.importance != "taylor":
                importance = {name: values / (np.mean(values) or 1.0) for name, values in importance.items()}
            return kmerge.choose_units(model, importance, budget=budget, selection="global")
        # The spaces of both in the same order: their layers may have other names.
        sizes = zip(*(kmerge.channel_spaces(each).selectable for each in (wide, target)), strict=True)
        widths = {most.name: round(most.size - (most.size - least.size) * done) for most, least in sizes}
        return {name: best_units(values, widths[name]) for name, values in importance.items()}
