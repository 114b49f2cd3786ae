"""How good models, and the mean of the outputs of several, are on data."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kmerge.batching import Batches
from kmerge.checks import refuse, sentence
from kmerge.compiling import rebuilt
from kmerge.errors import InvalidArgumentError
from kmerge.graph import array_of, mask_of

_DO = "Write them into its get_config, or pass a function of targets and outputs instead."


def metrics_of(
    of: Mapping[str, Sequence[keras.Model]], data: Batches, metric: keras.metrics.Metric | str, verb: str
) -> dict[str, float]:
    """A metric of the mean of the outputs of some models, for each list of them, by its name.

    Args:
        of: the models of each list, of one output each; the data is walked once.
        data: the batches, with targets.
        metric: a Keras metric or its name.
        verb: the function that was given the metric, for messages.
    """
    models = {id(model): model for listed in of.values() for model in listed}
    for model in models.values():
        if len(model.outputs) != 1:
            raise InvalidArgumentError(
                f"{verb}, data: expected models of one output, received one of {len(model.outputs)}. Leave the metric out, "
                "and measure each output by `model.evaluate`."
            )
    measures = {name: _measure(metric, verb) for name in of}
    for x, y, weight in data:
        found = {key: keras.tree.flatten(model(x, training=False))[0] for key, model in models.items()}
        outputs = {key: array_of(output) for key, output in found.items()}
        y, weight = (_of_one_output(part, what, verb) for part, what in ((y, "targets"), (weight, "sample weights")))
        for name, listed in of.items():
            mean = np.mean([outputs[id(model)] for model in listed], axis=0)
            counted = _unmasked(weight, mask_of(found[id(listed[0])]), measures[name])
            measures[name].update_state(y, mean, sample_weight=counted)
    return {name: float(measure.result()) for name, measure in measures.items()}


def _of_one_output(part: Any, what: str, verb: str) -> np.ndarray | None:
    """Targets or sample weights of a model of one output, which a dict or a list of one array may hold."""
    if part is None or hasattr(part, "shape"):
        return part
    arrays = keras.tree.flatten(part)
    if len(arrays) != 1:
        raise InvalidArgumentError(sentence(f"{what} of one output", f"{len(arrays)} arrays", of=f"{verb}, data"))
    return arrays[0]


def _unmasked(weight: np.ndarray | None, mask: Any, measure: keras.metrics.Metric) -> np.ndarray | None:
    """The weights of what counts: as in `model.evaluate`, what a mask hides does not count in the mean of a function."""
    if mask is None or not isinstance(measure, keras.metrics.MeanMetricWrapper):
        return weight
    mask = array_of(mask).astype(keras.config.floatx())
    if weight is None:
        return mask
    weight = weight.reshape(weight.shape[: mask.ndim] + (1,) * (mask.ndim - weight.ndim))
    return weight * mask


def _measure(metric: keras.metrics.Metric | str, of: str) -> keras.metrics.Metric:
    """A metric of our own: one that was given keeps what it has counted."""
    if isinstance(metric, keras.metrics.Metric):
        return rebuilt(metric, "metric", f"{of}, metric", _DO)
    if isinstance(metric, keras.losses.Loss):
        return keras.metrics.MeanMetricWrapper(metric.call)  # of each example; called, it gives the mean of a batch
    if isinstance(metric, str) and metric.lower() == "accuracy":
        do = 'Write "sparse_categorical_accuracy", "categorical_accuracy" or "binary_accuracy".'
        refuse("metric", "more than a name that asks whether outputs equal targets", metric, do, of)
    try:
        found = keras.metrics.get(metric)
        if found is None or isinstance(found, type):
            raise ValueError("no metric")
    except Exception as error:  # whatever Keras says to what is none, or a stranger's object does
        what = 'a Keras metric or its name, as "mean_squared_error"'
        raise InvalidArgumentError(sentence(what, metric, of=f"{of}, metric")) from error
    return found if isinstance(found, keras.metrics.Metric) else keras.metrics.MeanMetricWrapper(found)
