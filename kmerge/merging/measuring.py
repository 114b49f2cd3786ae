"""How good models, and the mean of the outputs of several, are on data."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from kmerge.batching import Batches
from kmerge.checks import refuse, sentence
from kmerge.errors import InvalidArgumentError
from kmerge.graph import array_of


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
        outputs = {key: array_of(model(x, training=False)) for key, model in models.items()}
        for name, listed in of.items():
            mean = np.mean([outputs[id(model)] for model in listed], axis=0)
            measures[name].update_state(y, mean, sample_weight=weight)
    return {name: float(measure.result()) for name, measure in measures.items()}


def _measure(metric: keras.metrics.Metric | str, of: str) -> keras.metrics.Metric:
    """A metric of our own: one that was given keeps what it has counted."""
    if isinstance(metric, keras.metrics.Metric):
        return _built_again(metric, of)
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


def _built_again(metric: keras.metrics.Metric, of: str) -> keras.metrics.Metric:
    try:
        return type(metric).from_config(metric.get_config())
    except Exception as error:
        do = "Pass the function in it instead."
        why = sentence("a metric that its configuration builds again", metric, do, f"{of}, metric")
        raise InvalidArgumentError(why) from error
