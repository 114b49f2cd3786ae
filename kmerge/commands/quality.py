"""How good a model is on the examples of a file."""

import keras
import numpy as np

from kmerge.commands.files import Examples
from kmerge.errors import InvalidArgumentError, told


def quality(model: keras.Model, examples: Examples, batch_size: int) -> dict[str, float]:
    """The loss and metrics that a model was compiled with; of one without, accuracy or the mean squared error.

    Args:
        model: the model.
        examples: whole numbers as targets, one an example, are classes; all others are values.
        batch_size: examples per batch.
    """
    if examples.targets is None:
        return {}
    try:
        if model.compiled:
            return model.evaluate(
                examples.inputs, examples.targets, batch_size=batch_size, verbose=0, return_dict=True
            )
        outputs = np.asarray(model.predict(examples.inputs, batch_size=batch_size, verbose=0))
        if examples.targets.dtype.kind in "iu" and outputs.ndim == 2 and outputs.shape[1] > 1:
            return {"accuracy": float(np.mean(outputs.argmax(-1) == examples.targets.reshape(-1)))}
        return {"mean squared error": float(np.mean((outputs - examples.targets.reshape(outputs.shape)) ** 2))}
    except Exception as error:
        what = f"--test: expected examples that fit the model {model.name!r}"
        raise InvalidArgumentError(f"{what}, received others ({told(error)}).") from None
