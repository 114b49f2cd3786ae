"""Neuron Transplantation: lay two networks side by side, keep the units of largest magnitude, fine-tune.

Reference: "Model fusion via neuron transplantation", arXiv:2502.06849. The closest rival of gates: the same big network
and the same cut, but the choice is made by the L2 magnitude of everything that belongs to a unit, and costs nothing, so
all epochs after the teachers' go into fine-tuning.

What differs: a unit's group of weights comes from kmerge's channel spaces, not from Torch-Pruning's dependency groups;
it holds the kernels that make the unit, those that read it, and the scales of normalisation, as there. All units are
cut at once ("flat"), from two networks, to half of each space; output kernels are those of the mean of the networks.
"""

import numpy as np

import kmerge
from baselines.budget import make_outcome, train_phase, train_teacher, validation_metric
from baselines.strategy import Budget, Outcome, Stages, Task


def magnitude_merge(task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
    """Two teachers, cut to one by magnitude, fine-tuned for the epochs of both later phases; see `Strategy`."""
    trained = [train_teacher(task, budget, seed, number, stages) for number in range(2)]
    teachers, records = [model for model, _ in trained], [record for _, record in trained]
    big = kmerge.concatenate(*teachers)
    keep = {
        name: np.sort(np.argsort(-norms, kind="stable")[: len(norms) // 2])
        for name, norms in kmerge.unit_importance(big, "magnitude").items()
    }
    student = kmerge.select(big, keep)
    extras = {
        "validation_teachers": [record.rows[-1]["val_metric"] for record in records],
        "validation_before_cut": validation_metric(task, big),
        "validation_after_cut": validation_metric(task, student),
    }
    record = train_phase(student, task, "finetune", budget.gates + budget.finetune, seed, stages)
    return make_outcome(task, student, record.best_weights, [*records, record], extras)
