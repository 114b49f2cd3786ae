"""Neuron Transplantation: lay two networks side by side, keep the units of largest magnitude, fine-tune.

Reference: "Model fusion via neuron transplantation", arXiv:2502.06849. The closest rival of gates: the same big network
and the same cut, but the choice is made by the L2 magnitude of everything that belongs to a unit, and costs nothing, so
all epochs after the teachers' go into fine-tuning.

What differs: a unit's group of weights comes from kmerge's channel spaces, not from Torch-Pruning's dependency groups;
it holds the kernels that make the unit, those that read it, and the scales of normalisation, as there. All units are
cut at once ("flat"), from two networks, to half of each space; output kernels are those of the mean of the networks.
"""

import keras
import numpy as np

import kmerge
from baselines.budget import make_outcome, train_phase, train_teacher, validation_metric
from baselines.strategy import Budget, Outcome, Stages, Task
from kmerge.channels import trace


def group_magnitudes(model: keras.Model) -> dict[str, np.ndarray]:
    """The squared L2 norm of what belongs to each unit: kernels that make or read it, scales of normalisation.

    Args:
        model: a Functional or Sequential model.

    Returns:
        For each selectable channel space an array of shape `(units,)`.

    Reference:
        Fang et al., "DepGraph: towards any structural pruning", CVPR 2023, section 3.3.
    """
    found = trace(model)
    squares = np.zeros(len(found.space_of))
    for path, weights in found.axes.items():
        for name, axes in weights.items():
            if len(axes) < 2 and name != "gamma":
                continue  # Biases, offsets and statistics say nothing about how much of a signal passes.
            square = np.square(keras.ops.convert_to_numpy(getattr(found.layers[path], name)).astype("float64"))
            for number, axis in enumerate(axes):
                if axis is not None:
                    others = tuple(i for i in range(len(axes)) if i != number)
                    np.add.at(squares, axis.units, square.sum(axis=others))
    return {space.name: squares[space.units] for space in found.spaces.selectable}


def magnitude_merge(task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
    """Two teachers, cut to one by magnitude, fine-tuned for the epochs of both later phases; see `Strategy`."""
    trained = [train_teacher(task, budget, seed, number, stages) for number in range(2)]
    teachers, records = [model for model, _ in trained], [record for _, record in trained]
    big = kmerge.concatenate(*teachers)
    keep = {
        name: np.sort(np.argsort(-squares, kind="stable")[: len(squares) // 2])
        for name, squares in group_magnitudes(big).items()
    }
    student = kmerge.select(big, keep)
    extras = {
        "validation_teachers": [record.rows[-1]["val_metric"] for record in records],
        "validation_before_cut": validation_metric(task, big),
        "validation_after_cut": validation_metric(task, student),
    }
    record = train_phase(student, task, "finetune", budget.gates + budget.finetune, seed, stages)
    return make_outcome(task, student, record.best_weights, [*records, record], extras)
