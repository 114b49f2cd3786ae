"""Plain training: one network for the whole budget, or three for a third of it each, the best of which is taken.

Reference: Pašen and Boža, "Merging of neural networks", section 3: rows "one model" and "best of three" ("bo3").
What differs: the winner of three is chosen on validation data; the paper's was chosen on test data.
"""

from baselines.budget import is_better, make_outcome, train_phase, train_teacher
from baselines.strategy import Budget, Outcome, Stages, Task
from kmerge.seeds import seed_of


def one_model(task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
    """One network, trained for `budget.single` epochs; see `Strategy`."""
    return train_one(task, budget.single, seed, stages)


def train_one(task: Task, epochs: int, seed: int, stages: Stages) -> Outcome:
    """One network, trained under the schedule of the phase "single" stretched to `epochs`.

    Args:
        task: what to learn.
        epochs: how many.
        seed: of the replicate.
        stages: what to train with.

    Returns:
        The outcome.
    """
    model = task.build(seed_of("single", seed))
    record = train_phase(model, task, "single", epochs, seed, stages)
    return make_outcome(task, model, record.best_weights, [record])


def best_of_three(task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
    """The best of three teachers by the validation metric of their last epochs; see `Strategy`."""
    trained = [train_teacher(task, budget, seed, number, stages) for number in range(3)]
    records = [record for _, record in trained]
    finals = [record.rows[-1]["val_metric"] for record in records]
    winner = 0
    for number in (1, 2):
        if is_better(finals[number], finals[winner], task):
            winner = number
    extras = {"winner": winner, "validation_teachers": finals}
    return make_outcome(task, trained[winner][0], records[winner].best_weights, records, extras)
