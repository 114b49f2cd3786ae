"""Distillation, then class-blind pruning of the student: the robots paper's own method.

Reference: Souroulla et al., "Model compression for resource-constrained mobile robots", section 5.3: a student learns the
outputs of a big teacher instead of the labels; then the smallest weights of the whole network go.

Budget: the big teacher of `distillation`; the student takes the epochs of the gates, and fine-tuning its own. What differs
is said in `distillation` and `weight_pruning`. Fine-tuning is on the labels, with the pruned weights held at zero; the
paper does not state it.

The paper's curve of accuracy against the percentage, `weight_pruning.pruning_curve` of the student of
`Distillation.distil`, is drawn by `python -m benchmarks.studies.curves`.
"""

from dataclasses import dataclass

from baselines.distillation.distillation import Distillation
from baselines.protocol.outcomes import make_outcome, validation_metric
from baselines.protocol.strategy import Outcome, Stages
from baselines.protocol.task import Budget, Task
from baselines.pruning.weight_pruning import check_pruning, prune_weights, tune
from kmerge.seeds import seed_of

# By strategy: how tables and figures name it, and whom they cite; see `benchmarks.strategies.labels`.
LABELS = {
    "distil_prune": ("Distillation, then weight pruning", "souroulla2022"),
}
_EXAMPLES = 64


@dataclass(frozen=True)
class DistilledPruning:
    """A teacher, then a student whose weights are pruned once and fine-tuned; a `Strategy`.

    It ends with the target's layers, some of them narrower.

    Attributes:
        method: of pruning, one of `weight_pruning.METHODS`.
        percentage: of the student's connections that go.
        distillation: how the student is made.
    """

    method: str = "class_blind"
    percentage: float = 80
    distillation: Distillation = Distillation(big_teacher=True, label_weight=0.0)

    def __call__(self, task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
        """See `Strategy`."""
        check_pruning(self.percentage, self.method)
        student, records = self.distillation.distil(task, budget, budget.gates, seed, stages)
        examples = task.data.inputs[:_EXAMPLES]
        pruned = prune_weights(student, self.percentage, self.method, examples, seed_of("pruning", seed))
        extras = {
            "percentage": float(self.percentage),
            "validation_teachers": [record.rows[-1]["val_metric"] for record in records[:-1]],
            "validation_before_cut": records[-1].rows[-1]["val_metric"],
            "validation_pruned": validation_metric(task, pruned.sparse),
            "validation_after_cut": validation_metric(task, pruned.model),
            **{name: value for name, value in pruned.counts.items() if name not in ("parameters", "macs")},
        }
        tuned = tune(pruned, task, budget.finetune, seed, stages)
        return make_outcome(task, pruned.model, tuned.best_weights, [*records, tuned], extras)
