"""What `merge` refuses or warns of and `compress` reports: layers whose gates or weights a plain student cannot hold."""

import warnings
from collections.abc import Iterable, Mapping, Sequence

import keras
import numpy as np

from kmerge.errors import UnsupportedLayerError
from kmerge.gates import HardConcreteGate
from kmerge.graph import Graph, array_of
from kmerge.merging.records import MergeRecord
from kmerge.pairing import paired_layers
from kmerge.spaces import Record, Trace

# Gates that are this close to 0 or 1 count as decided.
_DECIDED = 1e-6


def refuse_opaque(walked: Trace, models: Sequence[keras.Model]) -> None:
    """Refuses layers that run as they are and whose weights differ between the models.

    Args:
        walked: the walk of the first model.
        models: the models to merge.

    Raises:
        UnsupportedLayerError: names the layer.
    """
    opaque = {record.path: record.call.operation for record in walked.records.values() if record.rule.is_opaque}
    for other in models[1:] if opaque else ():
        twins = paired_layers(models[0], other)
        for path, layer in opaque.items():
            pairs = zip(layer.weights, twins[path].weights, strict=True)
            if not all(np.array_equal(*map(array_of, pair)) for pair in pairs):
                raise UnsupportedLayerError(
                    path, type(layer).__name__,
                    "it runs as it is, so the student has room for one of it, and those of the models differ.",
                    "Give the models one such layer with equal weights; or register a rule that says how it can be cut: "
                    "kmerge.register_rule(layer_class, rule). kmerge.concatenate keeps one of each model.",
                )  # fmt: skip


def warn_of_unsavable(record: MergeRecord, stacklevel: int) -> None:
    """Warns if a big student could not be compressed after it was saved and loaded."""
    if record.problem:
        warnings.warn(
            "The big student can be trained and compressed in this process, but not after it was saved and loaded, as no "
            f"configuration builds the architecture of its parents again: {record.problem} Give the objects in it names, as "
            "functions or classes of a module, and register them: keras.saving.register_keras_serializable.",
            UserWarning,
            stacklevel=stacklevel + 1,
        )


def _normalizing(walked: Trace) -> list[Record]:
    return [record for record in walked.records.values() if record.rule.normalizes]


def _paths(records: Iterable[Record]) -> str:
    paths = list(dict.fromkeys(record.path for record in records))
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def warn_of_joint_statistics(walked: Trace, stacklevel: int) -> None:
    """Warns of layers that will normalize over the units of all parents together."""
    if found := _normalizing(walked):
        warnings.warn(
            f"The layers {_paths(found)} normalize over the open units of all parents together, so that cutting closed "
            "ones changes nothing. Therefore the big student starts near the mean of the parents, not at it. Training "
            "repairs this; kmerge.concatenate is exact.",
            UserWarning,
            stacklevel=stacklevel + 1,
        )


def warn_of_undecided(
    walked: Trace,
    gates: Mapping[str, HardConcreteGate],
    keep: Mapping[str, np.ndarray],
    models: tuple[keras.Model, keras.Model],
    data: np.ndarray | Sequence[np.ndarray] | None,
    stacklevel: int,
) -> None:
    """Warns if normalized channels have gates between 0 and 1, or others than the kept are open: no weight holds that.

    Args:
        walked: the walk of the parent.
        gates: the gate of each space.
        keep: the units kept of each space.
        models: the big student and the compressed one.
        data: model inputs to measure the change on, or None.
        stacklevel: that of the warning, counted from the caller.
    """
    names, away = list(walked.spaces), {}
    for name, gate in gates.items():
        chosen = np.isin(np.arange(gate.units), keep[name])
        away[name] = float(np.max(np.abs(gate.values() - chosen)))
    distances = {}
    for i, record in enumerate(_normalizing(walked)):
        spaces = {names[number] for number in np.unique(walked.space_of[record.inputs[0].units])}
        distances[i] = max([away[name] for name in spaces & away.keys()], default=0.0)
    found = [record for i, record in enumerate(_normalizing(walked)) if distances[i] > _DECIDED]
    if not found:
        return
    measured = (
        "pass data= to measure by how much" if data is None else f"by {_change(*models, data):.1e} of their largest"
    )
    warnings.warn(
        f"The layers {_paths(found)} normalize over channels whose gates are up to {max(distances.values()):.2g} away from "
        f"the choice of 0 or 1, which no weight can hold. So the cut changes the outputs: {measured}. Train with "
        "kmerge.GatePressure('fade'), whose gates end at 0 and 1; or fine-tune the result.",
        UserWarning,
        stacklevel=stacklevel + 1,
    )


def _change(big: keras.Model, small: keras.Model, data) -> float:
    """The largest difference of the outputs, relative to the largest output."""
    flat = list(data) if isinstance(data, (list, tuple)) else [data]
    data = keras.tree.pack_sequence_as(Graph(big).input_structure, flat)
    before, after = (keras.tree.flatten(model.predict(data, batch_size=256, verbose=0)) for model in (big, small))
    pairs = zip(before, after, strict=True)
    return max(float(np.max(np.abs(b - a)) / (np.max(np.abs(b)) or 1.0)) for b, a in pairs)
