"""Neuron Transplantation: lay networks side by side, keep the units of largest magnitude, fine-tune.

Reference: "Model fusion via neuron transplantation", arXiv:2502.06849. The closest rival of gates: the same big network
and the same cut, but the choice is made by the L2 magnitude of everything that belongs to a unit, and costs nothing, so
all epochs after the teachers' go into fine-tuning.

What differs: a unit's group of weights comes from kmerge's channel spaces, not from Torch-Pruning's dependency groups;
it holds the kernels that make the unit, those that read it, and the scales of normalization, as there. All units of a cut
go at once; output kernels are those of the mean of the networks.

More than two networks share the epochs of two: each is trained for an equal part of them, so the budget stays the same.

    flat            |- a -|- b -|- c -|- d -| cut to a quarter |------------ finetune ------------|
    hierarchical    |- a -|- b -|- c -|- d -| cut a+b |- finetune -| cut c+d |- finetune -| cut both |- finetune -|

"hierarchical" splits the epochs of fine-tuning evenly over the cuts; where one is left over, the last cut gets it.

Variants tell what gates buy beyond their cost: another importance, or chance, instead of magnitude; and with `wide`
the big network is trained for the gates' epochs, just without gates, before it is cut.
"""

from dataclasses import dataclass, replace

import keras

import kmerge
from baselines.protocol.early_merging import before_annealing
from baselines.protocol.outcomes import make_outcome, validation_metric
from baselines.protocol.phases import train_phase
from baselines.protocol.strategy import Outcome, Stages
from baselines.protocol.task import Budget, Task
from baselines.protocol.teachers import check_budget, parted, train_teacher
from baselines.pruning.measured_importance import check_importance, measure_importance
from kmerge.pruning import best_units
from kmerge.seeds import seed_of

# By strategy: how tables and figures name it, and whom they cite; see `benchmarks.strategies.labels`.
LABELS = {
    "magnitude_merge": ("Magnitude merging", "oez2024"),
    "magnitude_merge_wide": ("Magnitude merging, trained wide", "oez2024"),
    "magnitude_merge_four": ("Magnitude merging of four", "oez2024"),
    "magnitude_merge_four_hierarchical": ("Magnitude merging of four, in pairs", "oez2024"),
    "magnitude_merge_before_annealing": ("Magnitude merging before annealing", "oez2024"),
    "random_merge": ("Random merging", None),
    "taylor_merge": ("Taylor merging", "molchanov2019"),
}


@dataclass(frozen=True)
class MagnitudeMerge:
    """Networks side by side, cut to the width of one, fine-tuned; a `Strategy`.

    Attributes:
        networks: how many, from 2.
        hierarchical: whether they are merged two at a time, with fine-tuning after each cut, or all at once.
        importance: "magnitude", or another of those of `kmerge.unit_importance`.
        wide: whether the big network is trained for the gates' epochs before it is cut; of two networks only.
        early: whether the networks are merged before they are annealed; see `before_annealing`.
    """

    networks: int = 2
    hierarchical: bool = False
    importance: str = "magnitude"
    wide: bool = False
    early: bool = False

    def __call__(self, task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
        """See `Strategy`."""
        if self.early:
            task, budget = before_annealing(task, budget)
        own, epochs = self._divided(budget)
        check_importance(task.build(seed_of("target")), self.importance)
        trained = [train_teacher(task, own, seed, number, stages) for number in range(self.networks)]
        left, records = [model for model, _ in trained], [record for _, record in trained]
        extras = {"validation_teachers": [record.rows[-1]["val_metric"] for record in records]}
        size = 2 if self.hierarchical else self.networks
        for cut, last in enumerate(epochs, 1):
            label = "finetune" if cut == len(epochs) else f"finetune_{cut}"
            big = kmerge.concatenate(*left[:size])
            if self.wide:
                records.append(train_phase(big, task, "gates", budget.gates, seed, stages, label="wide"))
            student, flops = self._cut(big, size, task, seed_of("cut", seed, cut))
            extras["validation_before_cut"] = validation_metric(task, big)
            extras["validation_after_cut"] = validation_metric(task, student)
            tuned = train_phase(student, task, "finetune", last, seed, stages, label=label)
            records.append(replace(tuned, flops=tuned.flops + flops))
            left = [*left[size:], student]  # neighbours first, then what came of them
        return make_outcome(task, left[0], tuned.best_weights, records, extras)

    def _divided(self, budget: Budget) -> tuple[Budget, list[int]]:
        """The teachers' budget, and the epochs of fine-tuning after each cut."""
        if self.networks < 2 or self.wide and (self.networks > 2 or self.hierarchical):
            raise kmerge.InvalidArgumentError(
                f"Expected networks >= 2, and wide only with 2, at once. Received: {self}."
            )
        cuts = self.networks - 1 if self.hierarchical else 1
        each, over = divmod(2 * budget.teacher, self.networks)
        tuning = budget.finetune + over + (0 if self.wide else budget.gates)
        name, need = f"Transplantation of {self.networks} networks", "an epoch at least for each of them and each cut"
        check_budget(name, each > 0 and tuning >= cuts, need, budget)
        return replace(budget, teacher=each), parted(tuning, cuts)

    def _cut(self, big: keras.Model, networks: int, task: Task, seed: int) -> tuple[keras.Model, float]:
        """The network of the best units, and the operations that choosing them cost."""
        importance, flops = measure_importance(big, task, self.importance, seed)
        keep = {name: best_units(values, len(values) // networks) for name, values in importance.items()}
        return kmerge.select(big, keep), flops
