"""A student and its teachers as one network, in which the student is trained to imitate the teachers.

    x -+- student ---------- logits -- Imitation -- logits     trained on the labels, as any network
       +- teachers, frozen - mean ----/                        and by what Imitation adds to the loss

The losses are those of `keras.distillation`. Its `Distiller` is not used: it leaves out what regularizers add to the
loss, so that a student trains without its weight decay; for features it runs the student a second time, in training
mode also on validation data, from which BatchNormalization then learns; it takes one teacher, and freezes that one in
place. Here the teachers are copies, see the batch that the student sees, augmented as it is, and run in inference.

Where each pixel has a label, void ones count in no loss, but which they are only a loss knows. So `Imitation` then puts out
what a pixel's imitation costs as one more channel behind the student's logits, and `ImitationLoss` takes its mean.
"""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from baselines.protocol.metrics import VOID
from kmerge.checks import number
from kmerge.costs import multiplies_nothing
from kmerge.errors import ArchitectureMismatchError, InvalidArgumentError
from kmerge.graph import Graph

_STUDENT = "student"
# What stands behind a head that labels pixels, and makes of logits logits.
_RESIZING = (keras.layers.Resizing, keras.layers.UpSampling2D)


class _Inference(keras.Model):
    """A Functional model that always runs in inference.

    A call with `training=False` in a graph is not enough: a model hands its own `training` to all that it calls.
    """

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=False, mask=mask)


def _softened(temperature: float) -> keras.distillation.DistillationLoss:
    # By the name "kl_divergence", its default, Keras 3.15 finds a function, for which it leaves the softmax out.
    return keras.distillation.LogitsDistillation(temperature, loss=keras.losses.KLDivergence())


@multiplies_nothing
@keras.saving.register_keras_serializable("kmerge_baselines")
class Imitation(keras.layers.Layer):
    """Passes the student's outputs on, and adds to the loss, in training, how far they are from the teachers'.

    Labels then count `label_weight`, imitation `1 - label_weight`: the gradient that comes from behind is scaled. So the
    loss on validation data, and the labels' part of the loss in training, are those of any other network.

    Args:
        label_weight: of the labels beside the teachers: from 0, teachers alone, to below 1.
        temperature: of the softmax of both outputs; None for regression, by the mean squared difference.
        feature_weight: how much the mean squared difference of features counts beside that of the outputs.
        per_pixel: whether what outputs differ by is put out for each pixel, for `ImitationLoss`, instead of added to the loss.
        **kwargs: for `keras.layers.Layer`.

    Call arguments:
        inputs: outputs of the student and of the teachers, each `(batch, outputs)`; then, with a `feature_weight`,
            features of both, of one shape.
        training: whether to add to the loss.

    Output shape:
        That of the student's outputs; with `per_pixel`, one channel more, which is zero but in training.

    Reference:
        Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015.
    """

    def __init__(
        self,
        label_weight: float,
        temperature: float | None = None,
        feature_weight: float = 0.0,
        per_pixel: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.label_weight, self.temperature, self.feature_weight = label_weight, temperature, feature_weight
        self.per_pixel = per_pixel
        squares = keras.distillation.FeatureDistillation("mse")
        self.losses_of = [squares if temperature is None else _softened(temperature), squares]

    def call(self, inputs, training=False):
        student, teacher, *features = inputs
        if not training:
            return self._with_term(student, ops.zeros_like(student[..., :1]))
        weights = [1 - self.label_weight, (1 - self.label_weight) * self.feature_weight]
        pairs = [(teacher, student), features[::-1]] if features else [(teacher, student)]
        terms = list(zip(weights, self.losses_of, pairs, strict=False))
        for weight, loss, pair in terms[1:] if self.per_pixel else terms:
            self.add_loss(weight * loss.compute_loss(*(ops.cast(value, "float32") for value in pair)))
        outputs = self.label_weight * student + (1 - self.label_weight) * ops.stop_gradient(student)
        return self._with_term(outputs, weights[0] * self._divergence(teacher, student) if self.per_pixel else None)

    def _divergence(self, teacher, student):
        """What `_softened` is the mean of, for each pixel."""
        theirs, own = (ops.log_softmax(ops.cast(x, "float32") / self.temperature, axis=-1) for x in (teacher, student))
        return self.temperature**2 * ops.sum(ops.exp(theirs) * (theirs - own), axis=-1, keepdims=True)

    def _with_term(self, outputs, term):
        return ops.concatenate([outputs, ops.cast(term, outputs.dtype)], axis=-1) if self.per_pixel else outputs

    def compute_output_shape(self, input_shape):
        *places, outputs = input_shape[0]
        return (*places, outputs + self.per_pixel)

    def get_config(self) -> dict:
        names = ("label_weight", "temperature", "feature_weight", "per_pixel")
        return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable("kmerge_baselines")
class ImitationLoss(keras.losses.Loss):
    """The loss of an `imitating` model of pixels: that of the labels, and the mean imitation of pixels that are not void.

    Args:
        labels: loss of labels `(batch, height, width)`, also with an axis of size 1 at the end, and logits.
        void: the label of pixels that do not count; `labels` must leave them out by itself.
        **kwargs: for `keras.losses.Loss`.
    """

    def __init__(self, labels: keras.losses.Loss, void: int = VOID, **kwargs):
        super().__init__(**kwargs)
        self.labels, self.void = labels, void

    def call(self, y_true, y_pred):
        counts = ops.cast(ops.not_equal(y_true, self.void), y_pred.dtype)
        counts = counts if len(counts.shape) < len(y_pred.shape) else ops.squeeze(counts, -1)
        term = ops.divide_no_nan(ops.sum(counts * y_pred[..., -1]), ops.sum(counts))
        return self.labels(y_true, y_pred[..., :-1]) + term

    def get_config(self) -> dict:
        labels = keras.saving.serialize_keras_object(self.labels)
        return super().get_config() | {"labels": labels, "void": self.void}

    @classmethod
    def from_config(cls, config: dict) -> "ImitationLoss":
        return cls(**{**config, "labels": keras.saving.deserialize_keras_object(config["labels"])})


def imitating(
    student: keras.Model,
    teachers: Sequence[keras.Model],
    *,
    label_weight: float = 0.5,
    temperature: float | None = None,
    feature_weight: float = 0.0,
    per_pixel: bool = False,
) -> keras.Model:
    """A network to train in place of the student, whose weights it shares.

    The teachers' target is the mean of their outputs. Their features, with a `feature_weight`, are what their last layers
    read, side by side; a linear layer that is trained along, and not kept, maps the student's to them (FitNets).

    Args:
        student: what is trained; its outputs are logits, or the values themselves in regression.
        teachers: one or more, with the student's inputs and outputs; a final softmax is set aside. Not changed.
        label_weight: of the labels beside the teachers: from 0, teachers alone, to below 1.
        temperature: of the softmax of both outputs; None for regression.
        feature_weight: how much features count beside outputs; 0 for not at all.
        per_pixel: whether pixels have labels, so that the model is to be trained with `ImitationLoss`.

    Returns:
        An uncompiled Functional model; see `weights_of_student`.

    Raises:
        ArchitectureMismatchError: if inputs, outputs or the places of features of a teacher and the student differ.
        InvalidArgumentError: without a teacher, for a number out of its range, or for a teacher or student whose final
            activation cannot be set aside.

    Reference:
        Hinton, Vinyals and Dean 2015; Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015.
    """
    _check_settings(teachers, label_weight, temperature, feature_weight)
    if per_pixel and temperature is None:
        raise InvalidArgumentError("Expected a temperature for pixels, whose outputs are logits. Received: None.")
    if temperature is not None:
        _refuse_activation(student)
        teachers = [logits_model(teacher) for teacher in teachers]
    for teacher in teachers:
        _check_pair(teacher, student)
    inputs = [keras.Input(x.shape[1:], dtype=x.dtype, name=f"input_{i}") for i, x in enumerate(student.inputs)]
    outputs, features = _read(keras.Model, student, _STUDENT, inputs, feature_weight)
    copies = [_frozen(teacher) for teacher in teachers]
    read = [_read(_Inference, copy, f"teacher_{i}", inputs, feature_weight) for i, copy in enumerate(copies)]
    target = read[0][0] if len(read) == 1 else keras.layers.Average(name="teachers")([first for first, _ in read])
    tensors = [outputs, target]
    if feature_weight:
        tensors += _matched(features, [value for _, value in read])
    layer = Imitation(label_weight, temperature, feature_weight, per_pixel, name="imitation")
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], layer(tensors), name=f"{student.name}_imitating")


def weights_of_student(model: keras.Model, student: keras.Model, weights: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The student's part of the weights of its `imitating` model.

    Args:
        model: made by `imitating`.
        student: what it trains.
        weights: what `model.get_weights()` gave at any time.

    Returns:
        What `student.get_weights()` would have given then.
    """
    values = {id(variable): value for variable, value in zip(model.weights, weights, strict=True)}
    return [values[id(variable)] for variable in student.weights]


def logits_model(model: keras.Model) -> keras.Model:
    """The model without its final softmax, if it has one.

    Args:
        model: a Functional or Sequential model with one output. Not changed.

    Returns:
        The model itself if it ends without an activation, else a copy that ends before it.

    Raises:
        InvalidArgumentError: if it ends with another activation, or with a layer that does not say what it does.
    """
    last, name = _last_call(model), _final_activation(model)
    if name == "linear":
        return model
    if name != "softmax":
        raise InvalidArgumentError(
            f"Expected a teacher that puts out logits, or ends with a softmax that can be set aside. Received: "
            f"{model.name!r}, which ends with {last.name!r} ({type(last.operation).__name__}, activation {name!r}). "
            "Pass a model that ends before it; where that is no Dense layer or convolution, let it end with "
            "keras.layers.Activation('linear')."
        )
    if isinstance(last.operation, keras.layers.Activation | keras.layers.Softmax):
        return keras.Model(model.input, last.inputs[0], name=model.name)

    def clone(layer):
        changes = {"activation": "linear"} if layer is last.operation else {}
        return type(layer).from_config(layer.get_config() | changes)

    copy = keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    return copy


def _last_call(model: keras.Model):
    graph = Graph(model)
    if len(graph.outputs) != 1:
        raise InvalidArgumentError(
            f"Expected a model with one output. Received: {model.name!r} with {len(graph.outputs)}."
        )
    return next(call for call in graph.calls if any(x is graph.outputs[0] for x in call.outputs))


def _resizes(operation: keras.Operation) -> bool:
    """Whether it resizes its first input; a layer of one's own says so by an attribute `resizes_logits`."""
    return isinstance(operation, _RESIZING) or getattr(operation, "resizes_logits", False)


def _final_activation(model: keras.Model) -> str:
    """The name of the activation of the last layer that does not resize; "unknown" where it has no such thing."""
    graph, call, resized = Graph(model), _last_call(model), ""
    while _resizes(call.operation):
        read, resized = call.inputs[0], ", resized"
        call = next((other for other in graph.calls if any(x is read for x in other.outputs)), None)
        if call is None:
            return "unknown"
    activation = getattr(call.operation, "activation", None)
    name = "unknown" if activation is None else getattr(activation, "__name__", repr(activation))
    if isinstance(call.operation, keras.layers.Softmax):
        axis = call.operation.axis
        name = "softmax" if axis in (-1, len(call.outputs[0].shape) - 1) else f"softmax over axis {axis}"
    return name if name == "linear" else name + resized


def _refuse_activation(student: keras.Model) -> None:
    name = _final_activation(student)
    if name != "linear":
        raise InvalidArgumentError(
            f"Expected a student that puts out logits, as its loss reads them. Received: {student.name!r}, which ends "
            f"with the activation {name!r}. Leave the activation out and train with from_logits=True."
        )


def _check_settings(teachers, label_weight, temperature, feature_weight) -> None:
    if not teachers:
        raise InvalidArgumentError("Expected at least one teacher, received none.")
    number("label_weight", label_weight, least=0, below=1)
    number("temperature", temperature, above=0, optional=True, do="None is for regression.")
    number("feature_weight", feature_weight, least=0)


def _check_pair(teacher: keras.Model, student: keras.Model) -> None:
    for side in ("inputs", "outputs"):
        theirs, own = ([(tuple(x.shape), x.dtype) for x in getattr(model, side)] for model in (teacher, student))
        if theirs != own:
            raise ArchitectureMismatchError(
                f"A teacher and its student must have the same {side}: teacher {teacher.name!r} has {theirs}, student "
                f"{student.name!r} has {own}. Choose a teacher that was trained on the student's task."
            )


def _frozen(model: keras.Model) -> keras.Model:
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.trainable = False
    return copy


def _read(kind: type, model: keras.Model, name: str, inputs: list, feature_weight: float) -> tuple:
    """Outputs of the model, called by that name on these inputs, and what its last layer reads, or None."""
    features = [_last_call(model).inputs[0]] if feature_weight else []
    named = kind(model.inputs, [*model.outputs, *features], name=name)
    outputs, *features = keras.tree.flatten(named(inputs))
    return outputs, features[0] if features else None


def _matched(features, targets: list) -> list:
    """The student's features, mapped to the teachers', and those."""
    for target in targets:
        if target.shape[:-1] != features.shape[:-1]:
            raise ArchitectureMismatchError(
                "Features of a teacher and its student may differ in channels only: what their last layers read has the "
                f"shapes {tuple(target.shape)} and {tuple(features.shape)}. Distil outputs alone."
            )
    target = targets[0] if len(targets) == 1 else keras.layers.Concatenate(name="teacher_features")(targets)
    start = keras.initializers.GlorotUniform(seed=1)
    return [keras.layers.Dense(target.shape[-1], kernel_initializer=start, name="regressor")(features), target]
