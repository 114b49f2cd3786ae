"""What `merge` refuses or warns of and `compress` reports: layers whose gates or weights a plain student cannot hold."""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence

import keras
import numpy as np

from kmerge.batching import Batches
from kmerge.checks import warn
from kmerge.errors import UnsupportedLayerError
from kmerge.gates import DECIDED
from kmerge.graph import array_of
from kmerge.merging.records import Merged, MergeRecord, kept_whole
from kmerge.merging.regions import Region
from kmerge.pairing import paired_layers
from kmerge.rules import moves_batch
from kmerge.spaces import Record, Trace


def refuse_opaque(walked: Trace, whole: Sequence[Region], models: Sequence[keras.Model]) -> None:
    """Refuses layers that run as they are, of which there is one for all models, and whose weights differ between these.

    Args:
        walked: the walk of the first model.
        whole: the regions of which each model keeps its own.
        models: the models to merge.

    Raises:
        UnsupportedLayerError: names the layer.
    """
    apart = {path for region in whole for path in region.layers}
    opaque = {r.path: r.call.operation for r in walked.records.values() if r.is_whole and r.path not in apart}
    opaque = {path: layer for path, layer in opaque.items() if getattr(layer, "weights", ())}
    for other in models[1:] if opaque else ():
        twins = paired_layers(models[0], other)
        for path, layer in opaque.items():
            pairs = zip(layer.weights, twins[path].weights, strict=True)
            if not all(np.array_equal(*map(array_of, pair)) for pair in pairs):
                raise UnsupportedLayerError(
                    path, type(layer).__name__,
                    "it runs as it is, on channels that all models share, and those of the models differ.",
                    "Give the models one such layer with equal weights; or register a rule that says how it can be cut: "
                    "kmerge.register_rule(layer_class, rule). kmerge.concatenate keeps one of each model.",
                )  # fmt: skip


def refuse_several_constants(walked: Trace) -> None:
    """Refuses a layer that is called several times, with other arrays: a big student tells them by the layer's name."""
    met: dict[str, list] = {}
    for record in walked.records.values():
        arrays = [array_of(array) for array in record.call.constants]
        before = met.setdefault(record.path, arrays)
        if len(arrays) != len(before) or not all(map(np.array_equal, arrays, before)):
            raise UnsupportedLayerError(
                record.path, type(record.call.operation).__name__,
                "it is called several times, with constant arrays that differ.",
                "Call a layer of its own with each array.",
            )  # fmt: skip


def warn_of_unsavable(record: MergeRecord) -> None:
    """Warns if a big student could not be compressed after it was saved and loaded."""
    if record.problem:
        warn(
            "The big student can be trained and compressed in this process, but not after it was saved and loaded, as no "
            f"configuration builds the architecture of its parents again: {record.problem} Give the objects in it names, as "
            "functions or classes of a module, and register them: keras.saving.register_keras_serializable."
        )


def refuse_moved_examples(walked: Trace) -> None:
    """Refuses gates of each example where a reshape moves places into the batch axis, so that rows are no examples behind it.

    Args:
        walked: the walk of the first model.

    Raises:
        UnsupportedLayerError: names the reshape.
    """
    for record in walked.records.values():
        if moves_batch(record.call):
            before, after = (tuple(side[0].shape) for side in (record.call.inputs, record.call.outputs))
            raise UnsupportedLayerError(
                record.path, "Reshape",
                f"it reshapes {before} to {after}, places into or out of the batch axis, so that gates drawn for each example "
                "do not fit what stands behind it.",
                "Draw them for each batch: sampling='batch'.",
            )  # fmt: skip


def warn_of_whole_layers(whole: Sequence[Region]) -> None:
    """Warns of layers that run as they are: the big student has one of each parent, of which one is kept."""
    if paths := [path for region in whole for path in region.layers]:
        warn(
            f"The layers {_listed(paths)} run as they are, so the big student holds one of each parent, with one gate for "
            "each: compress keeps that of one parent, whole, with the channels around it."
        )


def warn_of_equal(models: Sequence[keras.Model]) -> None:
    """Warns if two of the models are one object, or have equal weights."""
    for (i, a), (j, b) in itertools.combinations(enumerate(models, start=1), 2):
        pairs = zip(a.weights, b.weights, strict=True)
        if a is b or all(np.array_equal(*map(array_of, pair)) for pair in pairs):
            warn(
                f"Models {i} and {j} {'are one object' if a is b else 'have equal weights'}: merging a model with itself adds "
                "nothing to choose from. Merge models that were trained apart. Gates on one model alone are "
                "kmerge.gate(model, width)."
            )
            return


def _normalizing(walked: Trace) -> list[Record]:
    return [record for record in walked.records.values() if record.normalizes]


def _listed(paths: Iterable[str]) -> str:
    paths = list(dict.fromkeys(paths))
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def warn_of_joint_statistics(walked: Trace) -> None:
    """Warns of layers that will normalize over the units of all parents together."""
    if found := _normalizing(walked):
        warn(
            f"The layers {_listed(record.path for record in found)} normalize over the open units of all parents together, "
            "so that cutting closed ones changes nothing. Therefore the big student starts near the mean of the parents, not "
            "at it. Training repairs this; kmerge.concatenate is exact."
        )


def warn_of_changes(
    merged: Merged,
    keep: Mapping[str, np.ndarray],
    asked: Collection[str],
    whole: Mapping[str, int],
    models: tuple[keras.Model, keras.Model],
    data: Batches | None,
) -> None:
    """Warns if a cut changes the outputs: it takes away units whose gates are open, or no weight can hold what gates did.

    Args:
        merged: what the big student says of its merge.
        keep: the units kept of each space.
        asked: the spaces whose units somebody asked for; that others are open there is no surprise.
        whole: the parent kept of each region.
        models: the big student and the compressed one.
        data: the batches to measure the change on, or None.
    """
    reasons = [reason for reason in (_open_units(merged, keep, asked), _not_foldable(merged, keep, whole)) if reason]
    if not reasons:
        return
    measured = (
        "pass data= to measure by how much" if data is None else f"by {_change(*models, data):.1e} of their largest"
    )
    warn(
        f"{' '.join(reasons)} So the cut changes the outputs: {measured}. Train through all epochs of "
        "kmerge.GatePressure('fade'), whose gates end at 0 and 1, with EarlyStopping and ModelCheckpoint in kmerge.AfterFade; "
        "or fine-tune the result."
    )


def _open_units(merged: Merged, keep: Mapping[str, np.ndarray], asked: Collection[str]) -> str | None:
    """Which units go though their gates are open, in numbers; None if there are none."""
    if not any(gate.trained() for gate in merged.gates.values()):
        return None  # of these it is told that the choice is random
    cut = {name: np.delete(gate.values(), keep[name]) for name, gate in merged.gates.items() if name not in asked}
    still = {name: values[values > DECIDED] for name, values in cut.items() if (values > DECIDED).any()}
    if not still:
        return None
    spaces = [
        f"{name} ({len(values)} of {len(cut[name])}, up to {values.max():.2g} open, {values.mean():.2g} on average)"
        for name, values in sorted(still.items(), key=lambda item: -item[1].max())
    ]
    count, total = sum(map(len, still.values())), sum(map(len, cut.values()))
    return f"Of the {total} units that go, {count} have open gates: in {_listed(spaces)}."


def _not_foldable(merged: Merged, keep: Mapping[str, np.ndarray], whole: Mapping[str, int]) -> str | None:
    """Which layers see gates between 0 and 1, or others than the kept open, where no weight can hold that; None if none do.

    So it is of channels that a layer normalizes or adds up, or that a layer reads which runs as it is.
    """
    walked, away = merged.walked, {}
    for name, gate in merged.gates.items():
        chosen = np.isin(np.arange(gate.units), keep[name])
        away[name] = float(np.max(np.abs(gate.values() - chosen)))
    distances = {}
    for record in _normalizing(walked):
        spaces = {list(walked.spaces)[number] for number in np.unique(walked.space_of[record.inputs[0].units])}
        distances[record.path] = max([away[name] for name in spaces & away.keys()], default=0.0)
    for space in walked.spaces.selectable:
        distances |= {path: max(distances.get(path, 0.0), away.get(space.name, 0.0)) for path in space.adders}
    for region in (r for r in kept_whole(walked, merged.plan.sources) if r.name in merged.region_gates):
        gate = merged.region_gates[region.name]
        distance = float(np.max(np.abs(gate.values() - np.eye(gate.units)[whole[region.name]])))
        distances |= dict.fromkeys(region.layers, distance)
    found = [path for path, distance in distances.items() if distance > DECIDED]
    if not found:
        return None
    return (
        f"The layers {_listed(found)} normalize or add up channels, or run as they are on channels, whose gates are up to "
        f"{max(distances.values()):.2g} away from the choice of 0 or 1, which no weight can hold."
    )


def _change(big: keras.Model, small: keras.Model, data: Batches) -> float:
    """The largest difference of the outputs, relative to the largest output; of several outputs, the largest such."""
    largest, most = 0.0, 0.0
    for inputs, *_ in data:
        of_models = (keras.tree.flatten(model(inputs, training=False)) for model in (big, small))
        before, after = (list(map(array_of, outputs)) for outputs in of_models)
        differences = [np.abs(b - a).max() for b, a in zip(before, after, strict=True)]
        most, largest = np.maximum(most, differences), np.maximum(largest, [np.abs(b).max() for b in before])
    return float(np.max(most / np.where(largest == 0, 1.0, largest)))
