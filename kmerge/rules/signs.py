"""Which tensors are known to hold no negative number, as what a ReLU or a sigmoid makes.

The largest of such channels is a norm of them: a channel that is zero changes nothing, so that it may be left out.
"""

import keras
import numpy as np
from keras import activations, layers

from kmerge.graph import Call, array_of

# What makes no negative number of any.
_FUNCTIONS = frozenset(
    getattr(activations, name)
    for name in "exponential hard_sigmoid relu relu6 sigmoid softmax softplus sparse_plus sparse_sigmoid".split()
)
_MAKE = frozenset("Abs Absolute Exp Exp2 Fabs HardSigmoid Relu Relu6 Sigmoid Softmax Softplus Square".split())
# Whose activation is the last thing that they do.
_ACTIVATED = (
    layers.Activation, layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.Conv1DTranspose, layers.Conv2DTranspose,
    layers.Conv3DTranspose, layers.Dense, layers.DepthwiseConv1D, layers.DepthwiseConv2D, layers.EinsumDense,
    layers.SeparableConv1D, layers.SeparableConv2D,
)  # fmt: skip
# What makes none of inputs that have none: moves and adds up values, or multiplies them with each other.
_KEEP = frozenset(
    (
        "Add Average AveragePooling1D AveragePooling2D AveragePooling3D Concatenate Copy Cropping1D Cropping2D Cropping3D "
        "Dropout ExpandDims Flatten GetItem GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D "
        "GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D Identity Max Maximum MaxPooling1D MaxPooling2D "
        "MaxPooling3D Mean Minimum Moveaxis Multiply Permute RepeatVector Reshape SpatialDropout1D SpatialDropout2D "
        "SpatialDropout3D Split Squeeze Stack StopGradient Sum Swapaxes Take Transpose UpSampling1D UpSampling3D "
        "ZeroPadding1D ZeroPadding2D ZeroPadding3D"
    ).split()
)
# Of these what reads several tensors, beside which numbers and arrays may stand.
_OF_SEVERAL = frozenset("Add Average Concatenate Maximum Minimum Multiply Stack".split())


def makes_no_negative(call: Call, inputs: list[bool]) -> bool:
    """Whether the outputs of a call are known to hold no negative number.

    Args:
        call: the call.
        inputs: for each of its inputs, whether that is known of it.
    """
    operation, kind = call.operation, type(call.operation)
    if kind.__module__.partition(".")[0] != "keras":
        return False
    if isinstance(operation, _ACTIVATED):
        made = operation.activation in _FUNCTIONS
        return made or isinstance(operation, layers.Activation) and operation.activation is activations.linear and all(inputs)
    if kind is layers.ReLU:
        return operation.negative_slope == 0 and operation.threshold >= 0
    if not isinstance(operation, keras.Layer) and kind.__name__ in _MAKE:
        return True
    if kind.__name__ == "Take":  # whose inputs may be places to be taken of an array
        inputs = [inputs[i] for i in call.named_inputs["x"]]
    if kind.__name__ in _OF_SEVERAL:
        inputs = _with_constants(call, inputs)
    if kind.__name__ == "Maximum":
        return any(inputs)
    return kind.__name__ in _KEEP and bool(inputs) and all(inputs)


def _with_constants(call: Call, inputs: list[bool]) -> list[bool]:
    """The same for all arguments of a call, among which there may be numbers and arrays."""
    waiting = iter(inputs)
    values = keras.tree.flatten((call.args, call.kwargs))
    return [next(waiting) if isinstance(x, keras.KerasTensor) else _is_no_negative(x) for x in values]


def _is_no_negative(value: object) -> bool:
    is_number = isinstance(value, int | float | np.ndarray | np.generic) or keras.ops.is_tensor(value)
    return is_number and bool(np.all(array_of(value) >= 0))
