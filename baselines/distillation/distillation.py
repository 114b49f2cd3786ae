"""Distillation: teachers are trained, then a student learns from their outputs, with the labels or without.

References: Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015; Souroulla et al., "Model
compression for resource-constrained mobile robots": one big teacher, its outputs instead of the labels; Romero et al.,
"FitNets", ICLR 2015: features.

Budget: the teachers take the epochs of two teachers, the student those of gates and fine-tuning, under the schedule of
the phase "single", as it starts from nothing. A teacher's forward pass is charged: a third of what a training step of it
costs.

What differs:
- Hinton's teacher is an ensemble or a bigger network. Here it is two networks of the target architecture, the mean of
  whose logits is the target (the mean of their outputs in regression), or one big network. That is the one that the
  suite's table [teacher] names, with epochs and a schedule of its own; the suites of the robots paper have its pairs,
  ResNet-18 to LeNet and the like. Without that table it is the target at twice the width, trained as long as two
  teachers. What a big teacher costs, rows say in teacher epochs of the target.
- The robots paper states neither optimizer, epochs nor temperature. Temperature 3 and label weight 1/2 are the defaults
  of Keras; the rest is the suite's.
- The teachers see the batches as they are augmented for the student. How it is trained: `imitation`.
- FitNets trains on hints first; here features are one more term, and those of the last hidden layer are taken.
- Where pixels have labels, each is an example, but for void ones, whose outputs are not imitated: nobody says what is there.
- Regression has no softmax: outputs are matched by their mean squared difference.
"""

from dataclasses import dataclass, replace

import keras

from baselines.distillation.imitation import ImitationLoss, imitating, weights_of_student
from baselines.protocol.metrics import METRICS
from baselines.protocol.outcomes import make_outcome, training_flops
from baselines.protocol.phases import train_phase
from baselines.protocol.strategy import Outcome, Stages, TrainingRecord
from baselines.protocol.task import Budget, Task
from baselines.protocol.teachers import train_teacher
from kmerge.seeds import seed_of

# By strategy: how tables and figures name it, and whom they cite; see `benchmarks.strategies.labels`.
LABELS = {
    "distil_two": ("Distillation of two", "hinton2015"),
    "distil_two_outputs": ("Distillation of two, outputs alone", "hinton2015"),
    "distil_two_features": ("Distillation of two, features", "romero2015"),
    "distil_big": ("Distillation of a big teacher", "souroulla2022"),
    "distil_big_outputs": ("Distillation of a big teacher, outputs alone", "souroulla2022"),
}
_TEMPERATURE = 3.0


def big_teacher(task: Task, budget: Budget) -> tuple[Task, Budget, int]:
    """How the big teacher of a task is trained: what to hand to `train_teacher`.

    Args:
        task: of the student.
        budget: of the student.

    Returns:
        The teacher's task and budget, and the factor on its width. It sees all data, also where two teachers share them.
    """
    if task.big_teacher is None:
        return task.on_all_data, replace(budget, teacher=2 * budget.teacher), 2
    return task.big_teacher.task.on_all_data, replace(budget, teacher=task.big_teacher.epochs), 1


@dataclass(frozen=True)
class Distillation:
    """Teachers, then a student that learns from their outputs; a `Strategy`.

    Attributes:
        big_teacher: whether there is one big teacher, `Task.big_teacher` or one of twice the width, instead of two of the
            target's architecture.
        label_weight: of the labels beside the teachers: from 0, teachers alone, to below 1.
        feature_weight: how much features count beside outputs.
    """

    big_teacher: bool = False
    label_weight: float = 0.5
    feature_weight: float = 0.0

    def __call__(self, task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
        """See `Strategy`."""
        student, records = self.distil(task, budget, budget.gates + budget.finetune, seed, stages)
        extras = {"validation_teachers": [record.rows[-1]["val_metric"] for record in records[:-1]]}
        return make_outcome(task, student, records[-1].best_weights, records, extras)

    def distil(
        self, task: Task, budget: Budget, epochs: int, seed: int, stages: Stages
    ) -> tuple[keras.Model, list[TrainingRecord]]:
        """A student.

        Args:
            task: what to learn.
            budget: gives the epochs of the teachers.
            epochs: of the student.
            seed: of the replicate.
            stages: what to train with.

        Returns:
            The student with the weights of its last epoch, and the records of the teachers and of the student.
        """
        student = task.build(seed_of("student", seed))
        # What does not fit together is refused here, not after hours of teachers.
        taught, its_budget, widen = big_teacher(task, budget) if self.big_teacher else (task, budget, 1)
        self._imitating(task, student, [taught.build(seed, widen=widen)])
        numbers = range(1 if self.big_teacher else 2)
        trained = [train_teacher(taught, its_budget, seed, number, stages, widen) for number in numbers]
        teachers, records = [model for model, _ in trained], [record for _, record in trained]
        model = self._imitating(task, student, teachers)
        learnt = replace(task, loss=lambda: ImitationLoss(task.loss())) if METRICS[task.metric].of_pixels else task
        record = train_phase(model, learnt, "single", epochs, seed, stages, label="distil")
        # Of a teacher's training step, which `train_phase` counts, only the forward pass happens.
        backward = sum(training_flops(teacher, task, len(record.rows)) for teacher in teachers) * 2 / 3
        best = weights_of_student(model, student, record.best_weights)
        return student, [*records, replace(record, flops=record.flops - backward, best_weights=best)]

    def _imitating(self, task: Task, student: keras.Model, teachers: list[keras.Model]) -> keras.Model:
        return imitating(
            student,
            teachers,
            label_weight=self.label_weight,
            temperature=_TEMPERATURE if METRICS[task.metric].of_classes else None,
            feature_weight=self.feature_weight,
            per_pixel=METRICS[task.metric].of_pixels,
        )
