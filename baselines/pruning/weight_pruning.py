"""Weight pruning: set the smallest weights of a trained network to zero, remove what that cuts off, fine-tune.

Reference: Souroulla et al., "Model compression for resource-constrained mobile robots", sections 3.1 and 5.1. Its three
ways to choose a given percentage of the connections:

    random          anywhere in the network
    class_uniform   the smallest of each layer
    class_blind     the smallest of the whole network (Marchisio et al., PruNet, IJCNN 2018)

A neuron whose inputs or outputs are all gone is really removed (`dead_units`), so that parameters are not linear in the
percentage, as in the paper's figure 4. The zeros that stay are held during fine-tuning (`weight_masks`).

What the paper leaves open, and what we do:

- Which weights: kernels of Dense layers and convolutions, the last layer's too. Biases and normalization stay.
- Optimizers, epochs and rates: those of the suite. As a strategy, training takes the epochs of the teachers and the gates
  under the schedule "single", and fine-tuning those of the phase "finetune".
- Its LeNet has 0.357 million parameters and is not described; LeNet-5 has 62,006 on CIFAR-10. The suites of the paper take
  LeNet-5 with every hidden width times 2.41, which has 357,427. Every row reports its own parameters.
- Accuracy is that of the validation data; test data belongs to the end of a run.

What comes out is dense: multiply-accumulates fall only by removed units. `nonzero` counts parameters that are not pruned.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

import kmerge
from baselines.protocol.outcomes import make_outcome, validation_metric
from baselines.protocol.phases import train_phase
from baselines.protocol.strategy import Outcome, Stages, TrainingRecord
from baselines.protocol.task import Budget, Task
from baselines.pruning.dead_units import Removal, remove_dead_units
from baselines.pruning.weight_masks import Masks, apply_masks, hold_masks, kernels_of, release_masks
from kmerge.checks import number, one_of
from kmerge.seeds import rng_of, seed_of

# By strategy: how tables and figures name it, and whom they cite; see `benchmarks.strategies.labels`.
LABELS = {
    "weight_pruning_random": ("Weight pruning, random", "souroulla2022"),
    "weight_pruning_uniform": ("Weight pruning, class-uniform", "souroulla2022"),
    "weight_pruning_blind": ("Weight pruning, class-blind", "marchisio2018"),
}
METHODS = ("random", "class_uniform", "class_blind")
PERCENTAGES = tuple(range(0, 100, 5))
_EXAMPLES = 64


def weight_masks(model: keras.Model, percentage: float, method: str = "class_blind", seed: int = 0) -> Masks:
    """Which weights stay when a percentage of a model's connections is pruned.

    Args:
        model: a Functional or Sequential model.
        percentage: of its kernels' weights that go, from 0 to below 100; rounded to whole weights, of each layer
            ("class_uniform") or of the network.
        method: "random", "class_uniform" or "class_blind".
        seed: for "random".

    Returns:
        For each of `model.weights` a mask with 0 where it is pruned; None for biases and all but kernels.

    Raises:
        InvalidArgumentError: for a percentage out of range, an unknown method or a model without kernels.
    """
    check_pruning(percentage, method)
    arrays = [
        keras.ops.convert_to_numpy(weight) if is_kernel else None
        for weight, is_kernel in zip(model.weights, kernels_of(model), strict=True)
    ]
    kernels = [array for array in arrays if array is not None]
    if not kernels:
        raise kmerge.InvalidArgumentError(f"Model {model.name!r} has no Dense layer or convolution to prune.")
    if method == "random":
        rng = rng_of("weight_pruning", seed)
        sizes = [rng.uniform(size=kernel.size) for kernel in kernels]
    else:
        sizes = [np.abs(kernel).ravel() for kernel in kernels]
    groups = sizes if method == "class_uniform" else [np.concatenate(sizes)]
    kept = np.concatenate([_largest(group, percentage) for group in groups])
    parts = iter(np.split(kept, np.cumsum([kernel.size for kernel in kernels])[:-1]))
    return [None if array is None else next(parts).reshape(array.shape) for array in arrays]


def check_pruning(percentage: float, method: str) -> None:
    """Raises `InvalidArgumentError` for a percentage or a method that there is not."""
    number("percentage", percentage, least=0, below=100, do="It is that of the weights to prune.")
    one_of("method", method, METHODS)


def _largest(sizes: np.ndarray, percentage: float) -> np.ndarray:
    kept = np.ones(len(sizes), "uint8")
    kept[np.argsort(sizes, kind="stable")[: round(len(sizes) * percentage / 100)]] = 0
    return kept


@dataclass(frozen=True)
class Pruned:
    """A pruned model.

    Attributes:
        model: without the removed units; zeros where weights are pruned.
        masks: of its weights, see `weight_masks`.
        sparse: the model before units were removed.
        removal: what came of the removal.
    """

    model: keras.Model
    masks: Masks
    sparse: keras.Model
    removal: Removal

    @property
    def counts(self) -> dict[str, Any]:
        """What is left of it, as columns of a row."""
        zeros = sum(int(np.sum(mask == 0)) for mask in self.masks if mask is not None)
        parameters = kmerge.parameters(self.model)
        return {
            "parameters": parameters,
            "nonzero": parameters - zeros,
            "macs": kmerge.multiply_accumulates(self.model),
            "removed_units": self.removal.removed,
            "removal_exact": self.removal.exact,
            "removal_change": self.removal.change,
        }


def prune_weights(model: keras.Model, percentage: float, method: str, examples: np.ndarray, seed: int = 0) -> Pruned:
    """Prunes a percentage of a model's connections and removes the units that this cuts off.

    Args:
        model: a Functional or Sequential model; not changed.
        percentage: as for `weight_masks`.
        method: as for `weight_masks`.
        examples: inputs, as for `remove_dead_units`.
        seed: as for `weight_masks`.

    Returns:
        The pruned model, not compiled, with its masks.
    """
    masks = weight_masks(model, percentage, method, seed)
    sparse, patterns = kmerge.select(model, {}), kmerge.select(model, {})
    apply_masks(sparse, masks)
    removal = remove_dead_units(sparse, examples)
    for weight, mask in zip(patterns.weights, masks, strict=True):
        if mask is not None:
            weight.assign(mask)
    left = kmerge.select(patterns, removal.keep)
    masks = [
        keras.ops.convert_to_numpy(weight).astype("uint8") if is_kernel else None
        for weight, is_kernel in zip(left.weights, kernels_of(left), strict=True)
    ]
    return Pruned(removal.model, masks, sparse, removal)


def tune(pruned: Pruned, task: Task, epochs: int, seed: int, stages: Stages, label: str = "finetune") -> TrainingRecord:
    """Fine-tunes a pruned model in place, its pruned weights held at zero; returns the record of the phase."""
    hold_masks(pruned.model, pruned.masks)
    try:
        return train_phase(pruned.model, task, "finetune", epochs, seed, stages, label=label)
    finally:
        release_masks(pruned.model)


@dataclass(frozen=True)
class WeightPruning:
    """One network: 80 % of its weights are zeroed, what that cuts off goes, fine-tuned; a `Strategy`.

    It ends with the target's layers, some of them narrower.

    Attributes:
        method: one of `METHODS`.
        percentage: of the connections that go.
    """

    method: str = "class_blind"
    percentage: float = 80

    def __call__(self, task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
        """See `Strategy`."""
        check_pruning(self.percentage, self.method)
        model = task.build(seed_of("single", seed))
        trained = train_phase(model, task, "single", budget.merging - budget.finetune, seed, stages)
        examples = task.data.inputs[:_EXAMPLES]
        pruned = prune_weights(model, self.percentage, self.method, examples, seed_of("pruning", seed))
        extras = {
            "percentage": float(self.percentage),
            "validation_before_cut": trained.rows[-1]["val_metric"],
            "validation_pruned": validation_metric(task, pruned.sparse),
            "validation_after_cut": validation_metric(task, pruned.model),
            **{name: value for name, value in pruned.counts.items() if name not in ("parameters", "macs")},
        }
        tuned = tune(pruned, task, budget.finetune, seed, stages)
        return make_outcome(task, pruned.model, tuned.best_weights, [trained, tuned], extras)


def pruning_curve(
    model: keras.Model,
    task: Task,
    stages: Stages,
    *,
    methods: Sequence[str] = METHODS,
    percentages: Sequence[float] = PERCENTAGES,
    epochs: int = 0,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Accuracy and size of one trained network against the percentage of its connections that is pruned.

    Args:
        model: the trained network; not changed.
        task: its data, and how to fine-tune.
        stages: trains.
        methods: of `METHODS`.
        percentages: from 0 to below 100.
        epochs: of fine-tuning after each cut; 0 for none.
        seed: of "random" and of the order of the data.

    Returns:
        A JSON-able row for each method and percentage: `method`, `percentage`, `parameters` and `macs` of the model that
        is left, `nonzero` of them, `removed_units`, `removal_exact`, `removal_change` (see `Removal`), `seconds` of
        pruning and removal, and the validation metric `pruned`, `removed` (and the dead units gone) and, with epochs, `tuned`.

    Raises:
        InvalidArgumentError: for a percentage or a method that there is not, before anything is done.
    """
    for method in methods:
        for percentage in percentages:
            check_pruning(percentage, method)
    rows = []
    for method in methods:
        for percentage in percentages:
            start = time.perf_counter()
            pruned = prune_weights(model, percentage, method, task.data.inputs[:_EXAMPLES], seed)
            seconds = time.perf_counter() - start
            row = {"method": method, "percentage": percentage, **pruned.counts, "seconds": seconds}
            row["pruned"] = validation_metric(task, pruned.sparse)
            row["removed"] = validation_metric(task, pruned.model)
            if epochs:
                record = tune(pruned, task, epochs, seed, stages, label=f"{method}_{percentage}")
                row["tuned"] = record.rows[-1]["val_metric"]
            rows.append(row)
    return rows
