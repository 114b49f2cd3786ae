"""A weight that a layer held itself, as a layer of its own: what stands for `self.scale` in `x * self.scale`.

Keras records which layers and operations a model calls on tensors, and a bare weight is neither. So it would be lost, or
be a constant that nobody trains.

    class Scale(keras.Layer):                     h = HeldWeight((4,), name="scale_gamma")(x)      (4,)
        def call(self, x):                        y = x * h                                        (batch, 4)
            return x * self.gamma
"""

from typing import Any

import keras
from keras import ops

from kmerge.graph import is_buffer
from kmerge.rules import Rule, produces, register_rule


@keras.saving.register_keras_serializable("kmerge")
class HeldWeight(keras.Layer):
    """Gives its weight, whatever it is called on: the tensor that it reads only gives it a place in a graph.

    Args:
        shape: of the weight. A single number has the shape `(1,)` in the output.
        weight_dtype: type of the weight; by default the layer's.
        weight_trainable: whether the weight is trained where the layer is, unlike a buffer.
        regularizer, constraint: of the weight.
        **kwargs: those of `keras.Layer`.
    """

    def __init__(
        self,
        shape: tuple,
        weight_dtype: str | None = None,
        weight_trainable: bool = True,
        regularizer: Any = None,
        constraint: Any = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.shape = tuple(shape)
        self.weight_dtype = weight_dtype or self.variable_dtype
        self.weight_trainable = weight_trainable
        self.regularizer = keras.regularizers.get(regularizer)
        self.constraint = keras.constraints.get(constraint)
        self.supports_masking = True  # it lets masks be, and gives none

    @classmethod
    def of(cls, variable: keras.Variable, layer: keras.Layer) -> "HeldWeight":
        """A layer around a weight that is there: another layer's own."""
        held = cls(
            tuple(variable.shape),
            keras.backend.standardize_dtype(variable.value.dtype),
            not is_buffer(layer, variable),
            variable.regularizer,
            variable.constraint,
            dtype=layer.dtype_policy,
            trainable=layer.trainable,
            name=f"{layer.name}_{variable.name}",
        )
        held.weight = variable
        held.built = True
        return held

    def build(self, input_shape: tuple) -> None:
        self.weight = self.add_weight(
            shape=self.shape,
            initializer="zeros",
            dtype=self.weight_dtype,
            trainable=self.weight_trainable,
            regularizer=self.regularizer,
            constraint=self.constraint,
            name="weight",
        )

    def call(self, inputs):
        weight = ops.copy(self.weight)  # a tensor: under TensorFlow, `convert_to_tensor` would give the variable itself
        return weight if self.shape else ops.reshape(weight, (1,))

    def compute_mask(self, inputs, previous_mask):
        return None

    def compute_output_spec(self, inputs):
        casts = "float" in self.weight_dtype and self.autocast
        return keras.KerasTensor(self.shape or (1,), self.compute_dtype if casts else self.weight_dtype)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "shape": self.shape,
            "weight_dtype": self.weight_dtype,
            "weight_trainable": self.weight_trainable,
            "regularizer": keras.regularizers.serialize(self.regularizer),
            "constraint": keras.constraints.serialize(self.constraint),
        }


class HeldWeightRule(Rule):
    """It makes units on its last axis, and does not care for those that it reads."""

    takes_any_tensor = True

    def walk(self, site, *inputs):
        units = site.own(site.call.outputs[0].shape[-1])
        if site.layer.shape:
            site.weight("weight", *[None] * (len(site.layer.shape) - 1), produces(units))
        return site.output(units)

    def changes(self, site, inputs, outputs):
        return {"shape": (*site.layer.shape[:-1], len(outputs[0].units))} if site.layer.shape else {}


register_rule(HeldWeight, HeldWeightRule())
