"""Greedy merging: units are chosen layer by layer from the end with gates, then mimicked from the start.

Reference: Pašen, master's thesis 2022, chapter 3.1. The thesis could not make it work and suspected that its later tricks
were missing: a rising weight of the penalty, and gates at the inputs of the layers that mix the units. Both are here.

What differs, besides what `baselines.merging.local_problems` says:
- Budget: for each space the gates train for the epochs of the phase "gates"; all these problems together are about as much
  work as one gate phase of the big student. Mimicking takes half of the epochs of fine-tuning for each layer, the other
  half fine-tunes the student. To compute what layers read comes on top, once for each problem: little in a long budget,
  a fifth of all in a short one. So neither steps nor operations are those of other strategies; rows report them.
- What a layer reads and puts out is computed once, without augmentation, for as many training examples as a gibibyte
  holds; `greedy_examples` says how many in the largest problem. The digits fit; of CIFAR-100, ResNet-20 reads 16,384 for
  an inside of its last stage and 897 for the stream of its first, which is few: memory is what the method lacks there.
- Local problems are trained by SGD at no higher rate than is stable for what their layers read: at the rate of CIFAR-100's
  ResNet, .1, mimicking diverges within five layers.
- BatchNormalization keeps the statistics of the teachers until the student is fine-tuned.
"""

from dataclasses import replace

import keras
import numpy as np

import kmerge
from baselines.merging.local_problems import LocalProblem, identification, layers_to_mimic, mimicry, spaces_to_identify
from baselines.protocol.outcomes import make_outcome, training_flops, validation_metric
from baselines.protocol.phases import train_phase
from baselines.protocol.strategy import Outcome, Stages, TrainingRecord
from baselines.protocol.task import Budget, Data, Phase, Task
from baselines.protocol.teachers import train_teacher
from kmerge.errors import InvalidArgumentError
from kmerge.seeds import seed_of

# By strategy: how tables and figures name it, and whom they cite; see `benchmarks.strategies.labels`.
LABELS = {
    "greedy_merge": ("Greedy merging", "pasen2022thesis"),
}
_BYTES = 2**30
# Examples on which the outputs of local problems are scaled.
_SAMPLE = 500


def greedy_merge(task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
    """Two teachers, merged layer by layer; see `Strategy`."""
    if budget.finetune < 2:
        raise InvalidArgumentError(
            f"greedy_merge mimics in half of the epochs of fine-tuning, so it needs 2 or more. Received: {budget.finetune}."
        )
    mimicking = budget.finetune // 2
    trained = [train_teacher(task, budget, seed, number, stages) for number in range(2)]
    teachers, records = [model for model, _ in trained], [record for _, record in trained]
    extras = {"validation_teachers": [record.rows[-1]["val_metric"] for record in records]}
    big = kmerge.concatenate(*teachers)
    solving = _Solving(task, seed, stages)
    chosen: dict[str, np.ndarray] = {}
    undecided = []
    for space in spaces_to_identify(big):
        problem = identification(
            big, space, chosen, solving.sample, sampling=task.gates.sampling, seed=seed_of("gates", seed)
        )
        records.append(solving.solve(problem, "identify", "gates", budget.gates, control="paper"))
        chosen[space] = problem.gate.kept()
        undecided.append(problem.gate.undecided())
    student = kmerge.select(big, chosen)
    extras["validation_after_cut"] = validation_metric(task, student)
    for path in layers_to_mimic(big, chosen):
        problem = mimicry(big, student, path, chosen, solving.sample)
        records.append(solving.solve(problem, "mimic", "finetune", mimicking))
        student.get_layer(path).set_weights(problem.layers[path].get_weights())
    extras["validation_after_mimicking"] = validation_metric(task, student)
    extras |= {"gates_undecided": float(np.mean(undecided)), "greedy_examples": solving.examples}
    record = train_phase(student, task, "finetune", budget.finetune - mimicking, seed, stages)
    return make_outcome(task, student, record.best_weights, [*records, record], extras)


class _Solving:
    """Trains local problems of a task, as regressions of their own."""

    def __init__(self, task: Task, seed: int, stages: Stages):
        self.task, self.seed, self.stages = task, seed, stages
        self.examples = len(task.data.x_train)
        self.sample = task.data.inputs[:_SAMPLE]

    def solve(
        self,
        problem: LocalProblem,
        stage: str,
        phase: str,
        epochs: int,
        control: str | None = None,
    ) -> TrainingRecord:
        """Trains the model of a problem in place; the record charges what its data took to compute."""
        data = self.task.data
        examples = min(len(data.x_train), _BYTES // problem.bytes_per_example)
        self.examples = min(self.examples, examples)
        x, y = problem.arrays(data.inputs[:examples])
        x_val, y_val = problem.arrays(data.x_val)
        local = replace(
            self.task,
            phases={**self.task.phases, phase: _stable(self.task.phases[phase], problem, x[:_SAMPLE])},
            data=Data(x, y, x_val, y_val, None, None),
            loss=keras.losses.MeanSquaredError,
            metric="mse",
            augment=None,
        )
        label = f"{stage}_{problem.name}"
        record = train_phase(problem.model, local, phase, epochs, self.seed, self.stages, label=label, control=control)
        reading = sum(training_flops(read, local, 1) for read in (problem.reader, problem.target)) / 3  # forward only
        return replace(record, flops=record.flops + reading)


def _stable(phase: Phase, problem: LocalProblem, x: np.ndarray) -> Phase:
    """The phase, by SGD at no higher rate than is stable for what the problem reads: one over its curvature."""
    if phase.optimizer != "sgd":
        return phase
    excess = phase.learning_rate * problem.curvature(x)
    return replace(phase, learning_rate=phase.learning_rate / max(1.0, excess))
