"""How a mask reaches the layers that mix a space: by their input, or by their kernel.

`W (f * g) + b` is `(W * g) f + b`. A mask of its own for each example must meet the input, `ApplyGates`; a mask common to
the batch may meet the kernel instead, `FoldGates`, and then no activation is touched, read or kept.
"""

from collections.abc import Sequence

import keras
from keras import ops

from kmerge.checks import refuse, whole_number, whole_numbers

_MOST_AXES = 32


@keras.saving.register_keras_serializable("kmerge")
class ApplyGates(keras.layers.Layer):
    """Multiplies every position of one axis by its unit's gate.

    The position's gate is looked up by number in `[1, mask 1, mask 2, ...]`, so one axis may hold units of several
    spaces, a unit may occur at several positions, and positions without a gate have number 0. With one space of four
    units, `indices=[1, 2, 3, 4]` gates an axis of four channels and `[1, 1, 2, 2, 3, 3, 4, 4]` one where each occurs
    twice.

    Args:
        indices: number of the gate of each position of the axis: 0 for none, else 1 + its place among all masks' units.
        axis: the axis of `x` that holds the units; not the batch axis.
        **kwargs: arguments of `keras.layers.Layer`, such as `name`.

    Call arguments:
        inputs: `[x, *masks]`; `x` of shape `(batch, ..., len(indices), ...)`, each mask `(batch or 1, units)`.

    Output shape:
        That of `x`.

    Raises:
        InvalidArgumentError: if the indices do not fit the axis of `x` or the masks.

    Example:
        >>> mask = np.array([[1.0, 0.0, 0.5]], "float32")
        >>> np.array(kmerge.ApplyGates([1, 2, 3])([np.ones((1, 3), "float32"), mask])).tolist()
        [[1.0, 0.0, 0.5]]
    """

    def __init__(self, indices: Sequence[int], axis: int = -1, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.indices = whole_numbers("indices", indices, of=_told(self)).tolist()
        self.axis = int(whole_number("axis", axis, -_MOST_AXES, _MOST_AXES, of=_told(self)))

    def build(self, input_shape):
        shape, *masks = input_shape
        rank, axis = len(shape), self.axis
        if not -rank < axis < rank or axis == 0:
            refuse("axis", f"an axis of the input of shape {shape} other than the batch's", axis, of=_told(self))
        _check_indices(self, self.indices, shape, axis, masks)

    def call(self, inputs):
        x, *masks = inputs
        gates = look_up(masks, self.indices)
        shape = [1] * len(x.shape)
        shape[0], shape[self.axis] = -1, len(self.indices)
        return _gated(x, ops.reshape(gates, shape))

    def compute_mask(self, inputs, previous_mask):
        return previous_mask[0]  # that of `x`: which places of a sequence count

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def get_config(self) -> dict:
        return super().get_config() | {"indices": self.indices, "axis": self.axis}


@ops.custom_gradient
def _gated(x, gates):
    """`x * gates`, of which only the product and the gates are kept for the gradient, not `x`.

    The gradient of a gate is `sum(upstream * x)`, and x is the product over the gate. Where a gate is 0 it is taken as 0:
    a hard concrete gate does not move there.
    """
    product = x * gates

    def gradient(*arguments, upstream=None):
        upstream = arguments[0] if upstream is None else upstream
        repeated = [axis for axis, size in enumerate(gates.shape) if size == 1]
        by_product = ops.sum(upstream * product, axis=repeated, keepdims=True)
        is_open = gates > 0
        return upstream * gates, ops.where(is_open, by_product / ops.where(is_open, gates, 1.0), 0.0)

    return product, gradient


def look_up(masks: list, indices: list[int]) -> keras.KerasTensor:
    """The gate of each position, shape (batch or 1, positions), of masks of shape (batch or 1, units)."""
    if len(masks) == 1 and indices == list(range(1, masks[0].shape[-1] + 1)):
        return masks[0]
    gates = ops.concatenate([ops.ones_like(masks[0][:, :1]), *masks], axis=-1)
    return ops.take(gates, indices, axis=-1)


@keras.saving.register_keras_serializable("kmerge")
class LookUpGates(keras.layers.Layer):
    """The gates of units that a layer mixes inside itself, such as heads, in their order there.

    Args:
        indices: number of the gate of each unit, see `ApplyGates`.
        **kwargs: arguments of `keras.layers.Layer`, such as `name`.

    Call arguments:
        inputs: a list of masks, each of shape `(batch or 1, units)`.

    Output shape:
        `(batch or 1, len(indices))`.

    Raises:
        InvalidArgumentError: if the indices do not fit the masks.
    """

    def __init__(self, indices: Sequence[int], **kwargs):
        super().__init__(**({"autocast": False} | kwargs))
        self.indices = whole_numbers("indices", indices, of=_told(self)).tolist()

    def build(self, input_shape):
        _check_indices(self, self.indices, (len(self.indices),), 0, input_shape)

    def call(self, inputs):
        return look_up(inputs, self.indices)

    def compute_output_shape(self, input_shape):
        return input_shape[0][0], len(self.indices)

    def get_config(self) -> dict:
        return super().get_config() | {"indices": self.indices}


@keras.saving.register_keras_serializable("kmerge")
class FoldGates(keras.layers.Wrapper):
    """A Dense layer or convolution whose kernel is multiplied, along one axis, by the gates of the units that it reads.

    With a mask that all examples share, the result is that of `ApplyGates` before the layer.

    Args:
        layer: a layer with a `kernel`.
        indices: number of the gate of each position of the axis, see `ApplyGates`.
        axis: the axis of the kernel along which the inputs lie.
        **kwargs: arguments of `keras.layers.Layer`, such as `name`.

    Call arguments:
        inputs: `[x, *masks]`; each mask of shape `(1, units)`.

    Output shape:
        That of the layer.

    Raises:
        InvalidArgumentError: if the indices do not fit the kernel's axis or the masks, or a mask has a row per example.

    Example:
        >>> mask = np.array([[1.0, 0.0, 0.5]], "float32")
        >>> folded = kmerge.FoldGates(keras.layers.Dense(2), [1, 2, 3], axis=0)
        >>> tuple(folded([x, mask]).shape)
        (32, 2)
    """

    def __init__(self, layer: keras.layers.Layer, indices: Sequence[int], axis: int, **kwargs):
        if not isinstance(layer, keras.layers.Layer):
            refuse("layer", "a keras.Layer", layer, of="FoldGates")
        super().__init__(layer, autocast=False, dtype=layer.dtype_policy, **kwargs)
        self.supports_masking = layer.supports_masking
        self.indices = whole_numbers("indices", indices, of=_told(self)).tolist()
        self.axis = int(whole_number("axis", axis, -_MOST_AXES, _MOST_AXES, of=_told(self)))

    def build(self, input_shape):
        shape, *masks = input_shape
        super().build(shape)
        _check_indices(self, self.indices, self.layer.kernel.shape, self.axis, masks)
        if any(mask[0] != 1 for mask in masks):
            refuse("masks", "of one row each, common to all examples, as a kernel has no examples", masks, of=_told(self))

    def call(self, inputs):
        x, *masks = inputs
        kernel = self.layer.kernel
        shape = [-1 if i == self.axis else 1 for i in range(len(kernel.shape))]
        # Keras may have cast the kernel already: a mixed layer in a model that is not mixed.
        gates = ops.cast(look_up(masks, self.indices), keras.backend.standardize_dtype(kernel.value.dtype))
        gated = kernel.value * ops.reshape(gates, shape)
        # In this scope, and for this call, the kernel has another value. The scope hides all that it does not name.
        values = [(variable, variable.value) for variable in self.layer.variables if variable is not kernel]
        with keras.StatelessScope([*values, (kernel, gated)]):
            return self.layer(x)

    def compute_mask(self, inputs, previous_mask):
        return self.layer.compute_mask(inputs[0], previous_mask[0])

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape[0])

    def get_config(self) -> dict:
        config = super().get_config() | {"indices": self.indices, "axis": self.axis}
        return {name: value for name, value in config.items() if name != "dtype"}


def gated_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer itself, or the one inside if it is wrapped in `FoldGates`."""
    return layer.layer if isinstance(layer, FoldGates) else layer


def _check_indices(layer, indices: list[int], shape: tuple, axis: int, masks: list) -> None:
    units = sum(mask[-1] for mask in masks)
    if shape[axis] != len(indices):
        refuse("indices", f"one for each of the {shape[axis]} positions of axis {axis}", indices, of=_told(layer))
    if not masks or min(indices) < 0 or max(indices) > units:
        refuse("indices", f"between 0 and the {units} units of {len(masks)} masks", indices, of=_told(layer))


def _told(layer: keras.layers.Layer) -> str:
    return f"{type(layer).__name__} {layer.name!r}"
