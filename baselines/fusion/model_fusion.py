"""Model fusion: put the units of two networks in one order, take the mean of their weights, fine-tune.

What comes out has the size of one network without any choice among units, and costs no training before fine-tuning. How
units are matched tells the methods apart; all of it is derived from channel spaces, for any network that kmerge follows.

    matching         paper
    None             plain averaging, of units as they stand
    "weights"        Ainsworth et al., Git Re-Basin: Merging Models modulo Permutation Symmetries, ICLR 2023, section 3.2
    "activations"    the same, section 3.1
    "transport"      Singh and Jaggi, Model Fusion via Optimal Transport (OTFusion), NeurIPS 2020, exact transport
    "sinkhorn"       the same, with entropy
    "graphs"         Liu et al., Deep Neural Network Fusion via Graph Matching (GAMF), ICML 2022; see `graph_matching`

What differs. Git Re-Basin starts from the units as they stand, in random order; here one pass from the inputs on comes first,
on weights whose other units are already in their places, because it finds what that start may miss. Scales and offsets of
BatchNormalization are matched, running statistics are not. Activations are pooled over all layers that read a space.

OTFusion aligns, layer by layer, the weights that come in. Its exact plan between equally many units of equal mass is a
permutation, so it is found as an assignment. Costs are distances of all weights that make or carry a unit and are already
aligned: also of biases and BatchNormalization, which the paper leaves out. In a residual stream the first layers that make
it decide for all. Masses are equal; the entropy's weight, .01 of the largest cost, is our choice. Sinkhorn's iteration is our
own; a test holds it against the POT library.

Averaging makes variances collapse, so the statistics of BatchNormalization are measured anew before fine-tuning, in all rows
alike (Jordan et al., REPAIR, ICLR 2023). Fine-tuning gets the epochs of both later phases.
"""

from dataclasses import dataclass

import keras
import numpy as np

import kmerge
from baselines.fusion.graph_matching import check_solver, match_graphs
from baselines.fusion.transport import transport
from baselines.protocol.outcomes import make_outcome, validation_metric
from baselines.protocol.phases import train_phase
from baselines.protocol.strategy import Outcome, Stages
from baselines.protocol.task import Budget, Task
from baselines.protocol.teachers import train_teacher
from kmerge.matching import METHODS, align, average, match, match_score
from kmerge.seeds import seed_of

# By strategy: how tables and figures name it, and whom they cite; see `benchmarks.strategies.labels`.
LABELS = {
    "fusion_average": ("Plain average", None),
    "fusion_weight_matching": ("Weight matching", "ainsworth2023"),
    "fusion_activation_matching": ("Activation matching", "ainsworth2023"),
    "fusion_ot": ("OT fusion", "singh2020"),
    "fusion_ot_sinkhorn": ("OT fusion, Sinkhorn", "cuturi2013"),
    "fusion_gamf": ("Graph matching fusion", "liu2022"),
}
# Training examples on which units are correlated, and on which statistics are measured anew.
_EXAMPLES = 2_000
# Weight of the entropy in Sinkhorn's transport, as a share of the largest cost.
_REGULARIZATION = 0.01
MATCHINGS = (None, *METHODS, "sinkhorn", "graphs")


def aligned_by(
    matching: str | None, model: keras.Model, other: keras.Model, data: np.ndarray, seed: int
) -> keras.Model:
    """The second network with its units in the places of those of the first.

    Args:
        matching: one of `MATCHINGS`.
        model: the first network.
        other: the second, of the same architecture.
        data: inputs, for "activations".
        seed: of the replicate, for "weights".

    Returns:
        A model to average with the first: the second itself if nothing is matched.
    """
    if matching is None:
        return other
    if matching == "sinkhorn":
        return transport(model, other, _REGULARIZATION)
    if matching == "graphs":
        return align(model, other, match_graphs(model, other))
    order = match(
        model, other, matching, data if matching == "activations" else None, seed=seed_of("matching", seed)
    )
    return align(model, other, order)


@dataclass(frozen=True)
class Fusion:
    """Two teachers, aligned, averaged, fine-tuned; a `Strategy`.

    Attributes:
        matching: one of `MATCHINGS`; None for the units as they stand.
    """

    matching: str | None

    def __call__(self, task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
        """See `Strategy`."""
        if self.matching == "graphs":
            check_solver()
        trained = [train_teacher(task, budget, seed, number, stages) for number in range(2)]
        (model, other), records = [model for model, _ in trained], [record for _, record in trained]
        aligned = aligned_by(self.matching, model, other, task.data.inputs[:_EXAMPLES], seed)
        fused = average(model, aligned)
        student = kmerge.recalibrate(fused, task.data.inputs[:_EXAMPLES])
        extras = {
            "validation_teachers": [record.rows[-1]["val_metric"] for record in records],
            "validation_fused": validation_metric(task, fused),
            "validation_recalibrated": validation_metric(task, student),
            "match_score": match_score(model, aligned),
        }
        tuning = train_phase(student, task, "finetune", budget.gates + budget.finetune, seed, stages)
        return make_outcome(task, student, tuning.best_weights, [*records, tuning], extras)
