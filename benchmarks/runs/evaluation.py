"""How good the networks are that a run ends with: on the validation and the test data, which is looked at here alone."""

from typing import Any

import keras
import numpy as np

from baselines.protocol.metrics import METRICS
from baselines.protocol.outcomes import metric_of
from baselines.protocol.pixels import PixelMetric, examples_at_a_time, iou_of_classes, results_of_pixels
from baselines.protocol.strategy import Outcome
from baselines.protocol.task import Task
from benchmarks.runs.stopping import DivergedError

# Examples whose outputs are computed in one call: Keras copies them, and photographs are many.
_EVALUATED = 10_000
# Examples that are shown of a network of pixels, and the longest side of them: that of the data is divided until it fits.
_PICTURES, _MOST_SIDE = 2, 96


def evaluate(model: keras.Model, x: np.ndarray, y: np.ndarray, metric: str) -> float:
    """Accuracy of logits or probabilities against labels, or mean squared error.

    Args:
        model: needs not be compiled.
        x: inputs, `(n, ...)`.
        y: labels `(n,)` for accuracy; targets of the outputs' shape for the error.
        metric: "accuracy" or "mse".

    Raises:
        DivergedError: if the model's outputs are not finite.
    """
    parts = (x[start : start + _EVALUATED] for start in range(0, len(x), _EVALUATED))
    outputs = np.concatenate([_finite(model.predict(part, batch_size=500, verbose=0)) for part in parts])
    if METRICS[metric].of_classes:
        return float(np.mean(outputs.argmax(axis=-1) == y))
    return float(np.mean((outputs.astype("float64") - y) ** 2))


def evaluate_pixels(model: keras.Model, x: np.ndarray, y: np.ndarray, metric: PixelMetric) -> PixelMetric:
    """Count the pixels that a network labels right and wrong, a few images at a time, so that few outputs are in memory.

    Args:
        model: needs not be compiled.
        x: images, `(n, height, width, channels)`.
        y: labels `(n, height, width)`.
        metric: is reset first, and returned.

    Raises:
        DivergedError: if the model's outputs are not finite.
    """
    metric.reset_state()
    step = examples_at_a_time(x)
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        metric.update_state(y[part], _finite(model.predict(x[part], batch_size=step, verbose=0)))
    return metric


def results_of(task: Task, outcome: Outcome) -> dict[str, Any]:
    """Validation and test results of the last epoch's network and of the best one, and `extras` with more on pixels.

    Args:
        task: what was learnt.
        outcome: what its strategy ended with.
    """
    data, of_pixels = task.data, METRICS[task.metric].of_pixels
    results: dict[str, Any] = {}
    for name, model in (("best", outcome.best_model), ("last", outcome.model)):
        for part, x, y in (("validation", data.x_val, data.y_val), ("test", data.x_test, data.y_test)):
            if of_pixels:
                counted = evaluate_pixels(model, x, y, metric_of(task))
                results[f"{part}_{name}"] = float(counted.result())
            else:
                results[f"{part}_{name}"] = evaluate(model, x, y, task.metric)
    # The last that was counted are the test pixels of the last epoch's network.
    return results | {"extras": {**outcome.extras, **(_of_pixels(task, counted) if of_pixels else {})}}


def _of_pixels(task: Task, counted: PixelMetric) -> dict[str, Any]:
    """All metrics of pixels of the test data, and the intersection over union of each class; None where it has none."""
    found = [None if np.isnan(value) else float(value) for value in iou_of_classes(counted.confusion)]
    values = {f"test_{name}": value for name, value in results_of_pixels(counted).items()}
    return {**values, "test_iou_of_classes": dict(zip(task.classes, found, strict=True))}


def pictures(task: Task, outcome: Outcome) -> dict[str, Any]:
    """Some test images with their labels, and what the first and the last network of a run say, as JSON can hold it.

    Args:
        task: of pixels.
        outcome: what its strategy ended with.

    Returns:
        `classes`; `images`, from 0 to 255, `(n, height, width, 3)`; and of the same size the labels `truth`, `before`, where
        there is a first network, and `after`. Large images are thinned to a pixel of each few.
    """
    x = np.asarray(task.data.x_test[:_PICTURES])
    thin = (slice(None), *[slice(None, None, -(-max(x.shape[1:3]) // _MOST_SIDE))] * 2)
    shown = x[thin].astype("float32")
    low, high = shown.min(axis=(1, 2), keepdims=True), shown.max(axis=(1, 2), keepdims=True)
    shown = np.rint(255 * (shown - low) / np.maximum(high - low, 1e-6)).astype("uint8")
    models = {"after": outcome.model} | ({"before": outcome.first} if outcome.first else {})
    said = {name: model.predict(x, verbose=0).argmax(-1)[thin].tolist() for name, model in models.items()}
    images = np.repeat(shown, 3, -1) if shown.shape[-1] == 1 else shown[..., :3]
    truth = task.data.y_test[:_PICTURES][thin].tolist()
    return {"classes": list(task.classes), "images": images.tolist(), "truth": truth, **said}


def _finite(outputs: np.ndarray) -> np.ndarray:
    if not np.isfinite(outputs).all():
        raise DivergedError("training diverged: the network's outputs are not finite")
    return outputs
