"""What is counted: the parameters and the multiply-accumulates of a model.

A *multiply-accumulate* (MAC) is one `a += w * x`. Only layers that mix units are counted: a Dense layer from 3 to 4
units costs 12, a 3x3 convolution from 3 to 4 channels on a 5x5 output 3*3*3*4 * 5*5 = 2,700. Biases, normalization,
activations, pooling and gates cost about one operation per value and are left out, as the literature does. One training
step costs about three forward passes: one forward, two backward.

What is counted says little about time: `latency` in `measuring.py` measures it.
"""

import math
from collections.abc import Iterable

import keras

from kmerge.checks import refuse, warn
from kmerge.costs.layer_products import products
from kmerge.costs.product import Product
from kmerge.costs.sizes import InputShape, sized_calls


def parameters(model: keras.Model) -> int:
    """Number of weights, trainable or not, moving statistics included; a shared layer counts once.

    Args:
        model: a built model.

    Returns:
        The number of scalars in `model.weights`.

    Raises:
        InvalidArgumentError: if it is no model, or not built.

    Example:
        >>> kmerge.parameters(model)
        62
    """
    check_built(model)
    return int(sum(math.prod(weight.shape) for weight in model.weights))


def check_built(model: keras.Model) -> None:
    """Raises `InvalidArgumentError` unless it is a model that has its weights."""
    if not isinstance(model, keras.Model):
        refuse("model", "a keras.Model", model)
    if not model.built:
        refuse("model", "built", model.name, "Call it on a batch first: before that it has no weights.")


def multiply_accumulates(model: keras.Model, input_shape: InputShape | None = None) -> int:
    """Multiply-accumulates of one forward pass on one example; a shared layer counts at each of its calls.

    Args:
        model: Functional or Sequential. It is not changed.
        input_shape: the shape of one example, without the batch axis, where the model leaves sizes of it open; for
            several inputs a list of shapes in the order of `model.inputs`, or a dict by name.

    Returns:
        The number of multiply-accumulates.

    Raises:
        InvalidArgumentError: if the model has no graph; if a size that the count needs is unknown, or `input_shape` does
            not fit the model.

    Warns:
        UserWarning: names layers and operations that may multiply in a way that is not known. They count as 0.

    Example:
        >>> model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(4, 3)])
        >>> kmerge.multiply_accumulates(model, (7, 7, 3))
        2700
    """
    found = [product for _, call in sized_calls(model, input_shape) for product in products(call)]
    warn_of_unknown(found)
    return sum(product.count() for product in found)


def warn_of_unknown(found: Iterable[Product]) -> None:
    """Names, in one warning, the layers and operations whose products nobody knows."""
    names = list(dict.fromkeys(product.unknown for product in found if product.unknown))
    if names:
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        warn(f"Multiply-accumulates of {shown} are not known, and are counted as 0: add them by hand where they matter.")
