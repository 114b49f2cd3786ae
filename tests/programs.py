"""Training without programs, for tests whose networks take longer to compile than to train."""

import contextlib
from collections.abc import Iterator, Sequence
from unittest import mock

import keras
import numpy as np

from kmerge.graph import compile_arguments
from kmerge.training import loop, programs
from kmerge.training.augmentation import augmented
from kmerge.training.backend import take


class StepProgram(programs._Program):
    """An epoch step by step: the model's own steps on the same batches as in the program, traced by nobody."""

    def run(self, pieces, keep: Sequence[bool]) -> list[dict]:
        """One epoch; returns the metrics."""
        model = self._model()
        step = model.train_step if self._training else model.test_step
        model.reset_metrics()
        for data, orders in pieces:
            for start in range(0, orders.shape[1], self._batch_size):
                step(augmented(self._augments[0], take(data, np.asarray(orders[0, start : start + self._batch_size]))))
        return [{name: np.asarray(value) for name, value in model.get_metrics_result().items()}]

    def compile(self, pieces) -> None:
        """There is nothing to compile."""


def _build_optimizers(models: list, data, augments: Sequence) -> None:
    """What `fit` builds before it compiles, but for metrics and losses, which the first step builds.

    What a metric has counted for another model before, as that of other sizes, a model that is not built does not reset.
    """
    for model in models:
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        for metric in keras.tree.flatten([compile_arguments(model)[name] for name in ("metrics", "weighted_metrics")]):
            if isinstance(metric, keras.Metric):
                metric.reset_state()


@contextlib.contextmanager
def without_programs() -> Iterator[None]:
    """While this lasts, TensorFlow runs every function, and every step of `kmerge.fit`, as it is."""
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        with (
            mock.patch.dict(programs.PROGRAMS, tensorflow=StepProgram),
            mock.patch.object(loop, "_build_states", _build_optimizers),
        ):
            yield
    finally:
        tf.config.run_functions_eagerly(False)
