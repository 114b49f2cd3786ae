"""Idle units: what a unit gives all of whose weights are zero.

Mostly nothing: relu(0) = 0, and so is what a normalisation with gamma = beta = 0 gives. Behind a sigmoid it is .5, which every
layer that reads the unit sees, and learns to use.
"""

import keras
import numpy as np

from kmerge.graph import Call, Graph
from kmerge.spaces import walk_calls
from kmerge.unit_paths import UnitPaths

_NOISE = (keras.layers.GaussianNoise, keras.layers.AlphaDropout)


def spaces_with_a_constant(paths: UnitPaths) -> list[str]:
    """The selectable spaces whose idle units are not zero where a layer mixes them.

    Args:
        paths: the paths of the model's units.
    """
    walked, found = paths.walked, []

    def visit(key, path, call, values, end):
        record = walked.records[key]
        axes = walked.axes[path].values()
        if any(axis is not None and axis.role == "consumes" for of_weight in axes for axis in of_weight):
            found.extend(x.units for x, value in zip(record.inputs, values, strict=True) if value)
        if paths.makes(path):
            value = _gives(call, False)
        elif paths.is_normalisation(path):
            value = False
        elif type(call.operation).__name__ == "Multiply" and len(values) > 1:
            value = all(values)
        else:
            value = any(values) or _gives(call, True)
        return [value] * len(call.outputs)

    walk_calls(Graph(walked.model), [False] * len(walked.inputs), visit)
    numbers = {int(s) for units in found for s in np.unique(walked.space_of[units])}
    return [space.name for i, space in enumerate(walked.spaces.values()) if i in numbers and space.selectable]


def _gives(call: Call, passes: bool) -> bool:
    """Whether a layer or operation gives anything but zero for units whose inputs, weights and biases are zero."""
    operation = call.operation
    if isinstance(operation, keras.layers.Rescaling):
        return bool(np.any(np.asarray(operation.offset) != 0))
    if isinstance(operation, keras.layers.Layer):
        activation = getattr(operation, "activation", None)
        return isinstance(operation, _NOISE) or callable(activation) and _is_not_zero(activation(_zeros((1, 2))))
    if not passes or len(call.inputs) != 1:
        return False
    x = call.inputs[0]
    zeros = _zeros(tuple(size or 1 for size in x.shape))
    return any(_is_not_zero(y) for y in call.replay(operation, [zeros]))


def _zeros(shape: tuple):
    return keras.ops.zeros(shape, dtype="float32")


def _is_not_zero(value) -> bool:
    return bool(np.any(keras.ops.convert_to_numpy(value) != 0))
