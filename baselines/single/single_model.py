"""Plain training: one network for the whole budget; the best of three, each for a third of it; or two side by side.

Reference: Pašen and Boža, "Merging of neural networks", section 3: rows "one model" and "best of three" ("bo3"). Their
twins of twice the width, "long big teacher" and "bo3 big teacher", stand in Table 1 of the arXiv version.
What differs: the winner of three is chosen on validation data; the paper's was chosen on test data. The schedules of wide
networks are those of the target, in epochs and learning rates.

None of the wide networks is of the target architecture, and nor is the ensemble: their rows say what more they cost in
inference, in parameters and multiply-accumulates. The ensemble of two teachers, the mean of their logits, is what merging
starts from; it is an upper reference, trained for the teachers' epochs only.
"""

import keras
import numpy as np

from baselines.protocol.outcomes import make_outcome
from baselines.protocol.phases import best_of, train_phase
from baselines.protocol.strategy import Outcome, Stages
from baselines.protocol.task import Budget, Task
from baselines.protocol.teachers import train_teacher
from kmerge.seeds import seed_of

# By strategy: how tables and figures name it, and whom they cite; see `benchmarks.strategies.labels`.
LABELS = {
    "one_model": ("One model", None),
    "one_model_all_data": ("One model, all labels", None),
    "best_of_three": ("Best of three", "pasen2024"),
    "one_big_model": ("One big model", "pasen2022"),
    "best_of_three_big": ("Best of three big models", "pasen2022"),
    "ensemble": ("Ensemble of two", None),
}


def one_model(task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
    """One network, trained for `budget.single` epochs; see `Strategy`."""
    return train_one(task, budget.single, seed, stages)


def one_model_all_data(task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
    """`one_model` on all labelled data, where strategies have a few of them after the teachers; see `Strategy`."""
    return train_one(task.on_all_data, budget.single, seed, stages)


def one_big_model(task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
    """One network of twice the width, trained for `budget.single` epochs; see `Strategy`."""
    return train_one(task, budget.single, seed, stages, widen=2)


def train_one(task: Task, epochs: int, seed: int, stages: Stages, widen: int = 1) -> Outcome:
    """One network, trained under the schedule of the phase "single" stretched to `epochs`.

    Args:
        task: what to learn.
        epochs: how many.
        seed: of the replicate.
        stages: what to train with.
        widen: factor on its width.

    Returns:
        The outcome.
    """
    model = task.build(seed_of("single", seed), widen=widen)
    record = train_phase(model, task, "single", epochs, seed, stages)
    return make_outcome(task, model, record.best_weights, [record])


def best_of_three(task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
    """The best of three teachers by the validation metric of their last epochs; see `Strategy`."""
    return _best_of_three(task, budget, seed, stages, widen=1)


def best_of_three_big(task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
    """The best of three teachers of twice the width; see `Strategy`."""
    return _best_of_three(task, budget, seed, stages, widen=2)


def _best_of_three(task: Task, budget: Budget, seed: int, stages: Stages, widen: int) -> Outcome:
    trained = [train_teacher(task, budget, seed, number, stages, widen) for number in range(3)]
    records = [record for _, record in trained]
    finals = [record.rows[-1]["val_metric"] for record in records]
    winner = best_of(finals, task)
    extras = {"winner": winner, "validation_teachers": finals}
    return make_outcome(task, trained[winner][0], records[winner].best_weights, records, extras)


def ensemble(task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
    """The mean of the logits of two teachers, which runs both of them in inference; see `Strategy`."""
    trained = [train_teacher(task, budget, seed, number, stages) for number in range(2)]
    teachers, records = [model for model, _ in trained], [record for _, record in trained]
    mean = _side_by_side(teachers)
    best_weights: list[np.ndarray] = [weight for record in records for weight in record.best_weights]
    extras = {"validation_teachers": [record.rows[-1]["val_metric"] for record in records]}
    return make_outcome(task, mean, best_weights, records, extras)


def _side_by_side(models: list[keras.Model]) -> keras.Model:
    """One model with the mean of the outputs of several; each lies in it as a model of its own."""
    inputs = keras.Input(models[0].input_shape[1:], name="input")
    inner = [keras.Model(m.input, m.output, name=f"{m.name}_{number}") for number, m in enumerate(models)]
    outputs = keras.layers.Average(name="mean")([model(inputs) for model in inner])
    return keras.Model(inputs, outputs, name="ensemble")
