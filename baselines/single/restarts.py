"""A teacher that simply trains on: what tells merging from training longer.

    magnitude_merge  |---- teacher 0 ----|---- teacher 1 ----| cut |-------- finetune --------|
    restart          |---- teacher 0 ----|---- teacher 1 ----| the better one, finetune ------|
    restart_whole    |---- teacher 0 ----| teacher 0, finetune -------------------------------|

The teacher goes on from the weights of its last epoch, with a fresh optimizer, under the schedule of the phase
"finetune": that of a merged network, whose learning rate rises again after the teachers' fell.
"""

import keras

from baselines.protocol.outcomes import make_outcome
from baselines.protocol.phases import best_of, train_phase
from baselines.protocol.strategy import Outcome, Stages, TrainingRecord
from baselines.protocol.task import Budget, Task
from baselines.protocol.teachers import train_teacher

# By strategy: how tables and figures name it, and whom they cite; see `benchmarks.strategies.labels`.
LABELS = {
    "restart": ("Restart", None),
    "restart_whole": ("Restart, whole budget", None),
}


def restart(task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
    """The better of two teachers, by the last validation metric, trains on for the epochs after theirs; see `Strategy`."""
    trained = [train_teacher(task, budget, seed, number, stages) for number in range(2)]
    return _go_on(task, trained, budget.gates + budget.finetune, seed, stages)


def restart_whole(task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
    """One teacher has all epochs that merging takes; see `Strategy`."""
    trained = [train_teacher(task, budget, seed, 0, stages)]
    return _go_on(task, trained, budget.merging - budget.teacher, seed, stages)


def _go_on(
    task: Task, trained: list[tuple[keras.Model, TrainingRecord]], epochs: int, seed: int, stages: Stages
) -> Outcome:
    records = [record for _, record in trained]
    finals = [record.rows[-1]["val_metric"] for record in records]
    winner = best_of(finals, task)
    model = trained[winner][0]
    tuning = train_phase(model, task, "finetune", epochs, seed, stages)
    extras = {"winner": winner, "validation_teachers": finals}
    return make_outcome(task, model, tuning.best_weights, [*records, tuning], extras)
