"""Merging before annealing: the budget of merging, divided so that the learning rate falls once, at the end."""

from dataclasses import replace

from baselines.protocol.task import Budget, Task
from baselines.protocol.teachers import check_budget


def before_annealing(task: Task, budget: Budget) -> tuple[Task, Budget]:
    """A task and a budget on which a merging strategy merges early, and anneals what it merged.

    Teachers that are annealed before they are merged lose what that gave them when fine-tuning begins at a high learning
    rate again. So teachers and gates are trained for a small part of the budget, at the constant learning rate that their
    phases begin with, and the rest is one run under the schedule of the phase "single".

        l0_merge                   |-- teacher --|-- teacher --|- gates -|- finetune -|     rate falls in each of the four
        l0_merge_before_annealing  |- teacher -|- teacher -| gates |------ finetune ------| rate falls in the last alone

    Args:
        task: gives the shares of a teacher and of the gates, `Task.early`, and the phases.
        budget: of `budget.merging` epochs.

    Returns:
        The task with these phases, and with what controls of the gates add once an epoch fitted to the gates' epochs; and a
        budget of as many epochs.

    Raises:
        InvalidArgumentError: if no epoch is left to anneal.
    """
    teacher, gates = (max(1, round(share * budget.merging)) for share in (task.early.teacher, task.early.gates))
    rest = budget.merging - 2 * teacher - gates
    check_budget("Merging before annealing", rest > 0, "an epoch at least for each phase", budget)
    constant = {name: replace(task.phases[name], drops=()) for name in ("teacher", "gates")}
    phases = {**task.phases, **constant, "finetune": task.phases["single"]}
    task = replace(task, phases=phases, gates=task.gates.stretched(budget.gates / gates))
    return task, replace(budget, teacher=teacher, gates=gates, finetune=rest)
