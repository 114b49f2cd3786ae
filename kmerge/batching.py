"""One way in for data: whatever `model.evaluate` takes, as batches of NumPy arrays.

    data                                             batches
    arrays, tensors, lists and dicts of them         slices of `batch_size`
    a tuple (x, y) or (x, y, sample_weight) of them  likewise
    tf.data.Dataset, PyDataset, torch DataLoader     its own, from the start at each walk
    a list of batches                                its own
    a generator                                      its own; it runs once, so they are kept where they are walked again

A batch of the last three kinds is x, or a tuple that starts with x, as for `model.evaluate`. Nothing but the batch at hand is
in memory, unless batches are kept.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from types import GeneratorType
from typing import Any

import keras
import numpy as np

from kmerge.checks import whole_number
from kmerge.errors import InvalidArgumentError, told
from kmerge.graph import Graph, input_layer

_KINDS = (
    "arrays, a list or dict of arrays, a tuple (x, y) or (x, y, sample_weight) of them, a tf.data.Dataset, "
    "keras.utils.PyDataset, torch DataLoader or generator"
)
_LOADERS = {"tensorflow", "torch", "grain"}  # packages of datasets and loaders that Keras knows
_INFINITE = -1  # what tf.data.Dataset.cardinality says of a dataset that does not end


def check_amount(batch_size: int, steps: int | None, of: str = "") -> None:
    """Raises unless these are a size of batches, and the most of them to take or None for all."""
    whole_number("batch_size", batch_size, of=of)
    whole_number("steps", steps, optional=True, of=of)


class Batches:
    """The batches of some data, each `(x, y, sample_weight)` of NumPy arrays; y and sample_weight may be None.

    x is nested as the model's inputs are. Floats have the width of `keras.config.floatx()`, as in `model.evaluate`.

    Args:
        model: a Functional or Sequential model, whose inputs tell what of the data is x.
        data: of any of the kinds above.
        of: the function that was given it, for messages.
        name: of its argument, likewise.
        batch_size: examples per batch, where the data is arrays.
        steps: the most batches to take; None for all.
        targets: whether y is needed.
        again: whether batches are walked more than once.

    Raises:
        InvalidArgumentError: when it is made or walked, if the data is of another kind, is empty, does not end, or does
            not fit the model's inputs.
    """

    def __init__(
        self,
        model: keras.Model,
        data: Any,
        of: str,
        *,
        name: str = "data",
        batch_size: int = 32,
        steps: int | None = None,
        targets: bool = False,
        again: bool = False,
    ):
        self._of, self._name, self._targets = of, name, targets
        check_amount(batch_size, steps, of)
        self._batch_size, self._steps = batch_size, steps
        graph = Graph(model, as_built=True)
        self._inputs, self._structure = graph.inputs, graph.input_structure
        self._data = data
        if again and isinstance(data, Iterator):
            self._data = list(itertools.islice(data, steps))
        try:
            self._walk = self._how()
        except RecursionError:  # lists that lie in lists without end
            self._refuse(_KINDS, type(data).__name__)

    def __iter__(self) -> Iterator[tuple]:
        count = 0
        for batch in itertools.islice(self._walk(), self._steps):
            count += 1
            yield self._checked(*batch)
        if not count:
            self._refuse("at least one batch", "none")

    def _how(self) -> Any:
        """A function that begins a walk over the batches, each split into x, y and sample weights."""
        data = self._data
        if isinstance(data, keras.utils.PyDataset):
            return lambda: map(self._split, map(data.__getitem__, self._numbers(data)))
        if isinstance(data, dict | tuple) or _is_array(data) or self._is_nested(data):
            whole = self._split(data, lists=False)
            for leaf in keras.tree.flatten(whole):
                if leaf is not None and not _is_array(leaf):
                    self._refuse(_KINDS, f"a {type(leaf).__name__} in it", "Make an array of it by numpy.asarray.")
            return lambda: self._slices(whole)
        if not isinstance(data, Iterable) or isinstance(data, str | bytes | keras.KerasTensor):
            self._refuse(_KINDS, type(data).__name__)
        if hasattr(data, "cardinality") and int(data.cardinality()) == _INFINITE and self._steps is None:
            self._refuse("data that ends", "an endless dataset", "Give steps, or take a part of it: data.take(100).")
        return lambda: map(self._split, data)

    def _is_nested(self, data: Any) -> bool:
        """Whether a list holds an array for each of the model's inputs, and not batches."""
        is_list = isinstance(data, list) and not any(isinstance(item, tuple) for item in data)
        return is_list and len(keras.tree.flatten(data)) == len(self._inputs)

    def _numbers(self, data: keras.utils.PyDataset) -> Iterable[int]:
        try:
            length = data.num_batches
        except NotImplementedError:
            length = None
        if length is None and self._steps is None:
            self._refuse("data that ends", "a PyDataset without a number of batches", "Give steps, or write its __len__.")
        return itertools.count() if length is None else range(length)

    def _slices(self, whole: tuple) -> Iterator[tuple]:
        arrays = [leaf for leaf in keras.tree.flatten(whole) if leaf is not None]
        lengths = [len(array) for array in arrays]
        if len(set(lengths)) != 1:
            self._refuse("arrays with equally many examples", lengths)
        for start in range(0, lengths[0], self._batch_size):
            rows = slice(start, start + self._batch_size)
            yield map_arrays(lambda array: rows_of(array, rows), whole)  # noqa: B023

    def _split(self, batch: Any, lists: bool = True) -> tuple:
        """x, y and sample weights of a batch, or of all of the data: a tuple is x alone if only so it fits the inputs."""
        kinds = list | tuple if lists else tuple
        if isinstance(batch, kinds) and 1 <= len(batch) <= 3 and self._is_x(batch[0]):
            x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
        else:
            x, y, weight = batch, None, None
        if not self._is_x(x):
            parts = x[0] if isinstance(x, list | tuple) and len(x) and isinstance(x[0], dict) else x
            found = sorted(parts) if isinstance(parts, dict) else f"{len(keras.tree.flatten(parts))} values"
            self._refuse(f"an array for each of the model's inputs {self._names()}", f"{type(parts).__name__} of {found}")
        if y is None and self._targets:
            self._refuse("inputs and targets, (x, y)", "inputs alone")
        return self._arranged(x), y, weight

    def _is_x(self, x: Any) -> bool:
        if isinstance(x, dict):
            return any(set(names) <= set(x) for names in self._keys())
        is_list_with_dict = isinstance(x, list | tuple) and any(isinstance(item, dict) for item in x)
        return len(keras.tree.flatten(x)) == len(self._inputs) and not is_list_with_dict

    def _names(self) -> list[str]:
        return self._keys()[0]

    def _keys(self) -> list[list[str]]:
        """The names by which a dict may hold the inputs: its own where they are one, else of layers, or of tensors."""
        if isinstance(self._structure, dict):
            return [list(self._structure)]
        return [[input_layer(tensor).name for tensor in self._inputs], [tensor.name for tensor in self._inputs]]

    def _arranged(self, x: Any) -> Any:
        """x, nested as the model's inputs are."""
        if isinstance(x, dict):
            x = {name: x[name] for name in next(names for names in self._keys() if set(names) <= set(x))}
            if isinstance(self._structure, dict):
                return x
            x = list(x.values())
        return keras.tree.pack_sequence_as(self._structure, keras.tree.flatten(x))

    def _checked(self, x: Any, y: Any, weight: Any) -> tuple:
        try:
            x, y, weight = map_arrays(numpy_array, (x, y, weight))
        except (TypeError, ValueError) as error:
            self._refuse("batches of arrays", told(error))
        for array, tensor in zip(keras.tree.flatten(x), self._inputs, strict=True):
            if array.dtype.kind in "OUS" and tensor.dtype != "string":
                self._refuse(f"numbers for input {input_layer(tensor).name!r}", f"an array of type {array.dtype}")
            if not _fits(array.shape, tuple(tensor.shape)):
                examples = array.shape == tuple(tensor.shape)[1:]
                do = "Put the examples in batches: data.batch(32)." if examples else ""
                self._refuse(f"batches of shape {tuple(tensor.shape)} for input {input_layer(tensor).name!r}", array.shape, do)
        lengths = [len(array) for array in keras.tree.flatten((x, y, weight)) if array is not None and array.ndim]
        if len(set(lengths)) != 1:
            self._refuse("arrays with equally many examples in each batch", lengths)
        return x, y, weight

    def _refuse(self, what: str, received: object, do: str = "") -> None:
        came = received if isinstance(received, str) else repr(received)
        text = f"{self._of}: expected {self._name} to be {what}, received {came}." + (f" {do}" if do else "")
        raise InvalidArgumentError(text)


def _is_array(value: Any) -> bool:
    holds = bool(getattr(value, "shape", ())) and not isinstance(value, keras.KerasTensor)
    return holds and (hasattr(value, "__array__") or keras.ops.is_tensor(value))


def rows_of(array: Any, rows: slice) -> Any:
    """Some examples of an array, a tensor or what pandas has."""
    return array.iloc[rows] if hasattr(array, "iloc") else array[rows]


def map_arrays(function: Callable, *data: Any) -> Any:
    """Data, nested alike, with what the function makes of the arrays at each place; what is None stays so."""
    return keras.tree.map_structure(lambda *arrays: None if arrays[0] is None else function(*arrays), *data)


def numpy_array(value: Any) -> np.ndarray:
    """Data as NumPy array; as in `model.fit`, floats of other widths become the default float type."""
    if hasattr(value, "detach"):  # a tensor of torch
        value = value.detach().cpu()
    array = np.asarray(value)
    return array.astype(keras.config.floatx()) if array.dtype.kind == "f" else array


def _fits(shape: tuple, wanted: tuple) -> bool:
    """Whether an input takes an array of this shape, of any number of examples; Keras adds or drops a last axis of size 1."""
    for known in (shape, (*shape, 1), shape[:-1] if shape[-1:] == (1,) else shape):
        if len(known) == len(wanted) and all(w in (None, n) for n, w in zip(known[1:], wanted[1:], strict=True)):
            return True
    return False


def check_kind(data: Any, name: str, of: str) -> None:
    """Raises unless data is of a kind that Keras' own methods take.

    Args:
        data: the data.
        name: of the argument, for the message.
        of: the function that was given it, likewise.
    """
    if comes_in_batches(data):
        packages = {kind.__module__.partition(".")[0] for kind in type(data).__mro__}
        if not isinstance(data, keras.utils.PyDataset | GeneratorType) and not packages & _LOADERS:
            do = f"Make a generator of it: (batch for batch in {name})."
            raise InvalidArgumentError(f"{of}: expected {name} to be {_KINDS}, received {type(data).__name__}. {do}")
        return
    if wrong := [leaf for leaf in keras.tree.flatten(data) if not _is_array(leaf) and (leaf is not None or data is None)]:
        do = "Make arrays by numpy.asarray."
        text = f"{of}: expected {name} to be {_KINDS}, received {type(wrong[0]).__name__}"
        raise InvalidArgumentError(f"{text}{'' if wrong[0] is data else f' in a {type(data).__name__}'}. {do}")


def comes_in_batches(data: Any) -> bool:
    """Whether data comes in batches of its own: a dataset, a loader or a generator, and no array or nest of arrays."""
    no_batches = isinstance(data, str | bytes | dict | list | tuple) or _is_array(data)
    return isinstance(data, keras.utils.PyDataset) or (isinstance(data, Iterable) and not no_batches)


def kind_of(data: Any) -> str:
    """What data is, in a word for messages: what somebody gave, where it was put into `Continued`."""
    return data.kind if isinstance(data, Continued) else type(data).__name__


class Continued(keras.utils.PyDataset):
    """So many batches an epoch of data that goes on where the epoch before ended, and begins anew at its end.

    Args:
        data: a dataset, a loader or a generator.
        steps: batches of an epoch.
        of: the function that was given it, for messages.
    """

    def __init__(self, data: Any, steps: int, of: str):
        super().__init__()
        self._steps, self._of = steps, of
        self.kind = kind_of(data)
        self._coming = self._walks(data)
        self._drawn: dict[int, Any] = {}  # the last two, as Keras looks at the first two before it begins

    def _walks(self, data: Any) -> Iterator:
        while True:
            count = 0
            walk = map(data.__getitem__, range(data.num_batches)) if isinstance(data, keras.utils.PyDataset) else data
            for batch in walk:
                count += 1
                yield as_tuples(map_arrays(numpy_array, batch))
            if not count:
                raise InvalidArgumentError(
                    f"{self._of}: expected x to give {self._steps} batches in each epoch, received data that ended. Give a "
                    "generator that does not end, or data that begins anew each time."
                )

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Any:
        while step not in self._drawn:
            self._drawn[max(self._drawn, default=-1) + 1] = next(self._coming)
        self._drawn.pop(step - 2, None)
        return self._drawn[step]

    def next_epoch(self) -> None:
        """Lets step 0 be the next batch. `on_epoch_end` cannot tell, as Keras also calls it before an epoch."""
        self._drawn.clear()


def as_tuples(batch: Any) -> Any:
    """A batch with tuples instead of lists, which Keras' adapters for TensorFlow do not take inside of batches."""
    if isinstance(batch, list | tuple):
        return tuple(map(as_tuples, batch))
    return {key: as_tuples(value) for key, value in batch.items()} if isinstance(batch, dict) else batch
