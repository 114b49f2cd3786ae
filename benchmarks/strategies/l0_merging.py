"""Merging by L0 gates as a strategy: two teachers, the gated big student, the cut, fine-tuning.

Reference: Pašen and Boža, "Merging of neural networks".
"""

from dataclasses import dataclass, replace

import keras
import numpy as np

import kmerge
from baselines.merging.aligned_merging import aligned_big_student
from baselines.protocol.early_merging import before_annealing
from baselines.protocol.outcomes import make_outcome, training_flops, validation_metric
from baselines.protocol.phases import train_phase
from baselines.protocol.strategy import Outcome, Stages
from baselines.protocol.task import Budget, Task
from baselines.protocol.teachers import shared_among, train_teacher
from baselines.single.single_model import train_one
from benchmarks.strategies.gate_ablations import (
    ARRANGEMENTS,
    DecayedGate,
    GateDecay,
    LearnedBetaGate,
    check_normalized,
    constant_pressure,
    weight_decay_of,
    with_gates_of,
)
from kmerge.merging import read_merge
from kmerge.seeds import seed_of
from kmerge.spaces import trace

# By strategy: how tables and figures name it, and whom they cite; see `benchmarks.strategies.labels`.
LABELS = {
    "l0_merge": ("L0 merging", "pasen2024"),
    "l0_merge_three": ("L0 merging of three", "pasen2024"),
    "l0_merge_four": ("L0 merging of four", "pasen2024"),
    "l0_merge_four_hierarchical": ("L0 merging of four, in pairs", "pasen2024"),
    "l0_merge_paper": ("L0 merging, rising pressure", "pasen2024"),
    "l0_merge_lagrangian": ("L0 merging, Lagrangian", "pasen2024"),
    "l0_merge_fade": ("L0 merging, fade", "pasen2024"),
    "l0_merge_batch": ("L0 merging, masks per batch", "pasen2024"),
    "l0_merge_early": ("L0 merging, fade, cut early", "pasen2024"),
    "l0_merge_paper_early": ("L0 merging, rising pressure, cut early", "pasen2024"),
    "l0_merge_compensated": ("L0 merging, compensated", "pasen2024"),
    "l0_merge_paper_constant": ("L0 merging, constant pressure", "pasen2024"),
    "l0_merge_paper_beta": ("L0 merging, learned beta", "louizos2018"),
    "l0_merge_decayed_gates": ("L0 merging, decayed gates", "pasen2024"),
    "l0_merge_paper_unlinked": ("L0 merging, unlinked gates", "pasen2024"),
    "l0_merge_paper_before_norm": ("L0 merging, gates before normalization", "pasen2024"),
    "l0_merge_before_annealing": ("L0 merging before annealing", "pasen2024"),
    "aligned_merge": ("Aligned L0 merging", "pasen2024"),
    "no_gate_phase": ("L0 merging, untrained gates", None),
    "one_model_equal_compute": ("One model, equal compute", None),
}
# Examples whose activations the least-squares compensation sees, and by which units are matched and compared.
_EXAMPLES = 2_000


@dataclass(frozen=True)
class L0Merge:
    """Two teachers, merged by gates, cut to the size of one, fine-tuned; a `Strategy`.

    Attributes:
        control: of the gates' budget; None for the suite's own choice.
        compensate: whether `kmerge.compress` compensates for what was cut by least squares on training data.
        sampling: of the masks; None for the suite's own choice.
        patience: of `kmerge.GatePressure`. Epochs that it saves are added to fine-tuning.
        constant: whether the pressure of the control "paper" is constant, at the mean of its rise.
        learned_beta: whether each gate layer learns its beta.
        decayed: whether gates decay as the weights do; see `GateDecay`. Refused for a network without weight decay.
        arrangement: where gates stand, if not one for a space where it is read: "unlinked" for one at each place that reads
            it, "before_norm" for one before BatchNormalization.
        merged_above: align the teachers first, and merge pairs of units of at least this concordance; None for a merge as
            they come. See `baselines.merging.aligned_merging`.
        early: whether the teachers are merged before they are annealed; see `before_annealing`.
    """

    control: str | None = None
    compensate: bool = False
    sampling: str | None = None
    patience: int | None = None
    constant: bool = False
    learned_beta: bool = False
    decayed: bool = False
    arrangement: str | None = None
    merged_above: float | None = None
    early: bool = False

    def __call__(self, task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
        """See `Strategy`."""
        if self.early:
            task, budget = before_annealing(task, budget)
        control = self.control or task.gates.control
        if self.arrangement == "before_norm":
            check_normalized(trace(task.build(seed_of("target"))))
        if self.constant:
            task = replace(task, gates=constant_pressure(task.gates, budget.gates))
        how = {"control": control, "patience": self.patience}
        if self.decayed:
            how["callbacks"] = [GateDecay(weight_decay_of(task.build(seed_of("target"))), task.gates.learning_rate)]
        trained = [train_teacher(task, budget, seed, number, stages) for number in range(2)]
        teachers, records = [model for model, _ in trained], [record for _, record in trained]
        big, aligned = self._big(task, teachers, seed)
        if self.learned_beta:
            big = with_gates_of(LearnedBetaGate, big)
        if self.decayed:
            big = with_gates_of(DecayedGate, big)
        arrange, restore = ARRANGEMENTS.get(self.arrangement, (None, None))
        gated = arrange(big) if arrange else big
        gating = train_phase(gated, task, "gates", budget.gates, seed, stages, **how)
        big = restore(gated, big) if restore else big
        sample = task.data.inputs[:_EXAMPLES] if self.compensate else None
        student = _cut(big, sample)
        extras = {
            "control": control,
            "validation_teachers": [record.rows[-1]["val_metric"] for record in records],
            "validation_ensemble": validation_metric(task, *teachers),
            "validation_before_cut": gating.rows[-1]["val_metric"],
            "validation_after_cut": validation_metric(task, student),
            "gates_undecided": gating.rows[-1]["gate_undecided"],
            **(aligned or _first_parents(big, student)),
        }
        saved = budget.gates - len(gating.rows)
        tuning = train_phase(student, task, "finetune", budget.finetune + saved, seed, stages)
        return make_outcome(task, student, tuning.best_weights, [*records, gating, tuning], extras)

    def _big(self, task: Task, teachers: list[keras.Model], seed: int) -> tuple[keras.Model, dict[str, float]]:
        """The big student, and what its row says of how it was made."""
        if self.merged_above is None:
            return _big_student(task, teachers, seed, self.sampling), {}
        sampling, gate_seed = self.sampling or task.gates.sampling, seed_of("gates", seed)
        data = task.data.inputs[:_EXAMPLES]
        return aligned_big_student(*teachers, data, self.merged_above, sampling, gate_seed)


def _first_parents(big: keras.Model, student: keras.Model) -> dict[str, list[int]]:
    """Of each filter of the first convolution, which of two teachers it is of, 0 or 1; nothing where there is none."""
    first = next((layer.name for layer in student.layers if isinstance(layer, keras.layers.Conv2D)), None)
    merge = read_merge(big)
    gates = [gate for name, gate in merge.gates.items() if first in merge.walked.spaces[name].owners]
    return {"first_parents": [int(2 * unit >= gate.units) for gate in gates for unit in gate.kept()]} if gates else {}


@dataclass(frozen=True)
class L0MergeMany:
    """More than two teachers, which share the epochs of two, merged by gates; a `Strategy`.

    Attributes:
        networks: how many, from 2.
        hierarchical: whether they are merged two at a time, each time with gates and fine-tuning, or all at once.
        control: of the gates' budget; None for the suite's own choice.
    """

    networks: int
    hierarchical: bool = False
    control: str | None = None

    def __call__(self, task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
        """See `Strategy`."""
        cuts = self.networks - 1 if self.hierarchical else 1
        own, gates, tuning = shared_among(f"Merging of {self.networks} networks", budget, self.networks, cuts)
        trained = [train_teacher(task, own, seed, number, stages) for number in range(self.networks)]
        left, records = [model for model, _ in trained], [record for _, record in trained]
        control = self.control or task.gates.control
        extras = {"control": control, "validation_teachers": [record.rows[-1]["val_metric"] for record in records]}
        size = 2 if self.hierarchical else self.networks
        for cut in range(cuts):
            behind = "" if cut == cuts - 1 else f"_{cut + 1}"
            there = replace(task, gates=task.gates.stretched(budget.gates / gates[cut]))
            big = kmerge.merge(*left[:size], sampling=task.gates.sampling, seed=seed_of("gates", seed, cut))
            gating = train_phase(big, there, "gates", gates[cut], seed, stages, label=f"gates{behind}", control=control)
            student = _cut(big)
            extras["validation_before_cut"] = gating.rows[-1]["val_metric"]
            extras["validation_after_cut"] = validation_metric(task, student)
            tuned = train_phase(student, task, "finetune", tuning[cut], seed, stages, label=f"finetune{behind}")
            records += [gating, tuned]
            left = [*left[size:], student]  # neighbours first, then what came of them
        return make_outcome(task, left[0], tuned.best_weights, records, extras)


def _big_student(task: Task, teachers: list[keras.Model], seed: int, sampling: str | None = None) -> keras.Model:
    return kmerge.merge(*teachers, sampling=sampling or task.gates.sampling, seed=seed_of("gates", seed))


def _cut(big: keras.Model, sample: np.ndarray | None = None) -> keras.Model:
    """What `compress` keeps, asked for by name: that gates of other units are open is no surprise; rows report the cost."""
    return kmerge.compress(big, sample, keep={name: gate.kept() for name, gate in read_merge(big).gates.items()})


def one_model_equal_compute(task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
    """One network, trained for as many operations as `L0Merge` spends, in whole epochs; see `Strategy`."""
    teacher = task.build(seed_of("single", seed))
    big = _big_student(task, [teacher, task.build(seed_of("its twin", seed))], seed)
    per_epoch = training_flops(teacher, task, epochs=1)
    gates = training_flops(big, task, epochs=budget.gates) / per_epoch
    epochs = round(2 * budget.teacher + gates + budget.finetune)
    return train_one(task, epochs, seed, stages)


def no_gate_phase(task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
    """Two teachers, merged with gates that are never trained, and cut at once; see `Strategy`.

    What is kept is then chance, by the gates' first values. The gates' epochs go into fine-tuning.
    """
    trained = [train_teacher(task, budget, seed, number, stages) for number in range(2)]
    big = _big_student(task, [model for model, _ in trained], seed)
    student = _cut(big)
    records = [record for _, record in trained]
    extras = {
        "validation_teachers": [record.rows[-1]["val_metric"] for record in records],
        "validation_before_cut": validation_metric(task, big),
        "validation_after_cut": validation_metric(task, student),
    }
    tuning = train_phase(student, task, "finetune", budget.gates + budget.finetune, seed, stages)
    return make_outcome(task, student, tuning.best_weights, [*records, tuning], extras)
