"""Metrics of segmentation, from a confusion matrix in which void pixels do not count."""

import keras
import numpy as np
from keras import ops

from baselines.protocol.metrics import VOID

# Of images that go through a network at a time where it is not trained.
_PIXELS = 2**20
# Counts are split in two float32 parts, this many to a unit of the first: each is exact below 2**24, their sum below 2**44.
_UNIT = 2.0**20


@keras.saving.register_keras_serializable("kmerge_baselines")
class PixelMetric(keras.metrics.Metric):
    """Global pixel accuracy or mean intersection over union, of labels and logits, over all pixels that were ever seen.

    It holds a confusion matrix and no outputs, for `compile(metrics=)` under `model.fit` and `kmerge.fit`, and by itself.

    Args:
        classes: how many there are: labels go from 0 to below. Channels of the outputs beyond them are passed over.
        result_of: "pixel_accuracy", the share of pixels with the right label; or "mean_iou", the mean over the classes
            that are in the labels or in the predictions of their intersection over union.
        void: the label of pixels that do not count.
        name: in logs; that of the result by default.
        **kwargs: for `keras.metrics.Metric`.

    Example:
        >>> metric = PixelMetric(2)
        >>> metric.update_state([[[0, 1], [255, 1]]], [[[[2.0, 0], [0, 2]], [[0, 2], [2, 0]]]])
        >>> round(float(metric.result()), 4)
        0.6667
    """

    def __init__(
        self, classes: int, result_of: str = "pixel_accuracy", void: int = VOID, name: str | None = None, **kwargs
    ):
        super().__init__(name=name or result_of, **{"dtype": "float32", **kwargs})
        if result_of not in _RESULTS:
            raise ValueError(f"Expected result_of to be one of {', '.join(_RESULTS)}, received {result_of!r}.")
        self.classes, self.result_of, self.void = classes, result_of, void
        self.counts = self.add_variable((2, classes, classes), "zeros", dtype="float32", name="counts")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Count the pixels of a batch.

        Args:
            y_true: labels `(batch, ...)`, also with an axis of size 1 at the end.
            y_pred: logits or probabilities `(batch, ..., classes)`, fewer than 2**31 pixels.
            sample_weight: must be None: pixels are counted.

        Raises:
            ValueError: for weights, labels of another shape, or outputs with fewer channels than there are classes.
        """
        if sample_weight is not None:
            raise ValueError("PixelMetric counts pixels: expected no sample_weight. Use the void label instead.")
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        self._check_channels(y_pred.shape[-1])
        _check_places(tuple(y_true.shape), tuple(y_pred.shape[:-1]))
        labels, logits = ops.reshape(ops.cast(y_true, "int32"), (-1,)), y_pred[..., : self.classes]
        found = ops.reshape(ops.cast(ops.argmax(logits, axis=-1), "int32"), (-1,))
        is_whole = ops.equal(ops.cast(labels, y_true.dtype), ops.reshape(y_true, (-1,)))
        is_class = ops.logical_and(is_whole, ops.logical_and(labels >= 0, labels < self.classes))
        is_void = ops.logical_and(is_whole, ops.equal(labels, self.void))
        # Void pixels go into a cell behind the matrix; a label that is none makes the result NaN.
        counted = ops.logical_and(is_class, ops.logical_not(is_void))
        cells = ops.where(counted, labels * self.classes + found, self.classes**2)
        # Counted as whole numbers: float32 stays at 2**24.
        new = ops.scatter(cells[:, None], ops.ones_like(cells), (self.classes**2 + 1,))[:-1]
        new, unit = ops.reshape(new, (self.classes, self.classes)), int(_UNIT)
        high, low = (ops.cast(part, "float32") for part in (new // unit, new % unit))
        low = self.counts[1] + ops.where(ops.all(ops.logical_or(is_class, is_void)), low, float("nan"))
        units = ops.floor(low / _UNIT)
        self.counts.assign(ops.stack([self.counts[0] + high + units, low - units * _UNIT]))

    def _check_channels(self, channels: int | None) -> None:
        if channels is not None and channels < self.classes:
            raise ValueError(
                f"Expected outputs with a channel for each of {self.classes} classes, received {channels}. Let a network "
                "of two classes end in two logits and not in one sigmoid, or pass the number of classes that the outputs have."
            )

    def result(self):
        """The value so far: 0 before any pixel counted, NaN after a label that is none of them."""
        counts = self.counts[0] * _UNIT + self.counts[1]
        return ops.where(ops.isnan(ops.sum(counts)), float("nan"), _RESULTS[self.result_of](counts))

    @property
    def confusion(self) -> np.ndarray:
        """How many pixels of each class, a row each, were taken for each class: int64, `(classes, classes)`."""
        units, rest = ops.convert_to_numpy(self.counts).astype("int64")
        return units * int(_UNIT) + rest

    def get_config(self) -> dict:
        """The arguments."""
        return super().get_config() | {"classes": self.classes, "result_of": self.result_of, "void": self.void}


def _check_places(labels: tuple, outputs: tuple) -> None:
    shape = labels[:-1] if len(labels) == len(outputs) + 1 and labels[-1] == 1 else labels
    if len(shape) != len(outputs) or any(None not in pair and len(set(pair)) > 1 for pair in zip(shape, outputs, strict=True)):
        raise ValueError(
            f"Expected a label for each pixel of outputs {outputs}, received labels of shape {labels}. Masks must be as large "
            "as what the network puts out."
        )


def results_of_pixels(counted: PixelMetric) -> dict[str, float]:
    """Every metric of the pixels that one has counted, by its name."""
    counts = counted.confusion.astype("float64")
    return {name: float(result(counts)) for name, result in _RESULTS.items()}


def examples_at_a_time(images: np.ndarray) -> int:
    """How many images to put through a network at a time, by their size.

    Args:
        images: `(n, height, width, channels)`.
    """
    return max(1, min(500, _PIXELS // (images.shape[1] * images.shape[2])))


def iou_of_classes(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union of each class; NaN where a class is neither in the labels nor in the predictions.

    Args:
        confusion: as `PixelMetric.confusion`.
    """
    both = np.diag(confusion).astype("float64")
    either = confusion.sum(0) + confusion.sum(1) - both
    return np.divide(both, either, out=np.full(len(both), np.nan), where=either > 0)


def _accuracy(confusion):
    return ops.divide_no_nan(ops.sum(ops.diagonal(confusion)), ops.sum(confusion))


def _mean_iou(confusion):
    both = ops.diagonal(confusion)
    either = ops.sum(confusion, 0) + ops.sum(confusion, 1) - both
    there = ops.cast(either > 0, "float32")
    return ops.divide_no_nan(ops.sum(ops.divide_no_nan(both, either)), ops.sum(there))


_RESULTS = {"pixel_accuracy": _accuracy, "mean_iou": _mean_iou}
