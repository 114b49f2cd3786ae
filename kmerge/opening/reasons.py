"""Why a layer stays closed, in words."""

import re
from collections.abc import Mapping
from types import MappingProxyType

import keras


class StaysClosed(Exception):
    """Why a layer cannot be opened, in words that go on from "Layer ... stays as it is: ".

    Attributes:
        read: the variables that were read as numbers until then, by their ids.
    """

    read: Mapping[int, keras.Variable] = MappingProxyType({})


UNKNOWN_SIZE = "its call computes with a size that is not known, as that of the batch"
# What the messages of Keras and the backends say, and what it means here.
_MEANINGS = {
    "its call looks at the values of a tensor": ("used as a boolean",),
    "its call adds a loss, which would be lost": ("add_loss",),
    "its call changes a weight": ("no attribute 'assign",),
    "its call uses functions of the backend or of NumPy": (
        "used as input to a",
        "You cannot convert it to a NumPy array",
        "__array__",
        "__jax_array__",
    ),
    UNKNOWN_SIZE: (
        "value (None)",
        "NoneType",
        "got (None",
        "slice(None,",
    ),
}


def meaning_of(error: Exception, otherwise: str = "its call does not run on symbolic tensors") -> str:
    """What an exception of a layer's call says of the layer; with the words for one that is not known."""
    text = str(error).strip()
    for meaning, parts in _MEANINGS.items():
        if any(part in text for part in parts):
            return meaning
    lines = [line for line in text.splitlines() if line and not line.startswith("Exception encountered when")]
    first = re.sub("\x1b[^m]*m", "", lines[0]) if lines else ""  # Keras prints in bold
    return f"{otherwise} ({type(error).__name__}: {first.rstrip('.')})"
