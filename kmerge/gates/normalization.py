"""Normalization over gated units: each unit counts as much as its gate is open.

With the gates g the mean over units is sum(g x) / sum(g). So where gates are exactly 0 and 1, the layer does to the
open units what a plain one would do that has only these: cutting the others off changes nothing.

Four units x = [1 3 7 9] with the gates [1 1 0 0] have the mean 2, with [1 1 .5 0] the mean 3.
"""

import keras
from keras import ops

# Keeps a mean over no open unit finite.
_TINY = 1e-6


class _GatedMean:
    """Call on `[x, gates]`; the gates are shaped like `x`, with size 1 on axes along which they do not vary."""

    def build(self, input_shape):
        super().build(input_shape[0])

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def compute_mask(self, inputs, previous_mask):
        return previous_mask[0] if isinstance(previous_mask, (list, tuple)) else previous_mask

    def _axes(self, x) -> list[int]:
        axes = self.axis if isinstance(self.axis, (list, tuple)) else [self.axis]
        return [axis % len(x.shape) for axis in axes]

    def _mean(self, x, gates):
        """The mean over the normalized axes, weighted by the gates; both float32."""
        axes = self._axes(x)
        weights = gates * ops.ones_like(x) if len(axes) > 1 else gates
        return ops.sum(x * gates, axes, keepdims=True) / ops.maximum(ops.sum(weights, axes, keepdims=True), _TINY)

    def _per_unit(self, weight, x):
        """A weight with an axis of size 1 for each axis of `x` that is not normalized over."""
        axes = self._axes(x)
        return ops.reshape(ops.cast(weight, "float32"), [x.shape[i] if i in axes else 1 for i in range(len(x.shape))])


@keras.saving.register_keras_serializable("kmerge")
class GatedLayerNormalization(_GatedMean, keras.layers.LayerNormalization):
    """LayerNormalization with gate-weighted mean and variance.

    Args:
        **kwargs: those of `keras.layers.LayerNormalization`.
    """

    def call(self, inputs):
        x, gates = (ops.cast(value, "float32") for value in inputs)
        mean = self._mean(x, gates)
        scale = ops.rsqrt(self._mean(ops.square(x - mean), gates) + self.epsilon)
        y = x * scale if self.rms_scaling else (x - mean) * scale
        y = y if self.gamma is None else y * self._per_unit(self.gamma, x)
        y = y if self.beta is None else y + self._per_unit(self.beta, x)
        return ops.cast(y, self.compute_dtype)


@keras.saving.register_keras_serializable("kmerge")
class GatedRMSNormalization(_GatedMean, keras.layers.RMSNormalization):
    """RMSNormalization with a gate-weighted mean square.

    Args:
        **kwargs: those of `keras.layers.RMSNormalization`.
    """

    def call(self, inputs):
        x, gates = (ops.cast(value, "float32") for value in inputs)
        y = x * ops.rsqrt(self._mean(ops.square(x), gates) + self.epsilon)
        return ops.cast(y * self._per_unit(self.scale, x), self.compute_dtype)


@keras.saving.register_keras_serializable("kmerge")
class GatedUnitNormalization(_GatedMean, keras.layers.UnitNormalization):
    """UnitNormalization with a gate-weighted sum of squares.

    Args:
        **kwargs: those of `keras.layers.UnitNormalization`.
    """

    def call(self, inputs):
        x, gates = (ops.cast(value, "float32") for value in inputs)
        squares = ops.sum(ops.square(x) * gates, self._axes(x), keepdims=True)
        return ops.cast(x * ops.rsqrt(ops.maximum(squares, 1e-24)), self.compute_dtype)
