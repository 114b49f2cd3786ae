"""Every error that kmerge raises on purpose.

A message says what was expected, what was received, which layer it concerns and what to do about it.
"""

from collections.abc import Sequence


class KmergeError(Exception):
    """Base class of the library's errors.

    Example:
        >>> try:
        ...     kmerge.select(model, {"third": 2})
        ... except kmerge.KmergeError as error:
        ...     print(type(error).__name__)
        InvalidArgumentError
    """


class InvalidArgumentError(KmergeError, ValueError):
    """An argument that no model could make right: an unknown space, a mask of another length.

    Example:
        >>> try:
        ...     kmerge.Budget(parameters=-1)
        ... except kmerge.InvalidArgumentError as error:
        ...     print(str(error).partition(".")[0])
        Budget: expected parameters to be a number above 0, received -1
    """


class UnsupportedLayerError(KmergeError, ValueError):
    """A layer, or a use of one, whose channels kmerge cannot follow.

    Args:
        layer: name of the layer or operation, with the names of the nested models it lies in.
        kind: class of the layer or operation.
        why: what cannot be followed.
        remedy: what the user can do.
        reads: names of the layers whose outputs it reads in the call concerned.
        may_run_as_it_is: whether the layer can be left as it is instead, with its channels fixed.

    Example:
        >>> flipped = keras.Sequential([model, keras.layers.Lambda(lambda x: x[:, ::-1], name="flip")])
        >>> try:
        ...     with kmerge.strict():
        ...         kmerge.channel_spaces(flipped)
        ... except kmerge.UnsupportedLayerError as error:
        ...     print(error.layer)
        flip
    """

    def __init__(
        self, layer: str, kind: str, why: str, remedy: str, reads: Sequence[str] = (), may_run_as_it_is: bool = True
    ):
        self.layer, self.kind, self.why, self.remedy = layer, kind, why, remedy
        self.may_run_as_it_is = may_run_as_it_is
        called = f", called on {' and '.join(map(repr, reads))}" if reads else ""
        super().__init__(f"Layer {layer!r} ({kind}{called}): {why} {remedy}")

    def called_on(self, reads: Sequence[str]) -> "UnsupportedLayerError":
        """This error with the call that it concerns."""
        return UnsupportedLayerError(self.layer, self.kind, self.why, self.remedy, reads, self.may_run_as_it_is)


class UnfollowedLayerWarning(UserWarning):
    """A layer whose channels kmerge cannot follow runs as it is, all of its channels fixed.

    Example:
        >>> import warnings
        >>> warnings.simplefilter("error", kmerge.UnfollowedLayerWarning)      # or kmerge.strict()
    """


def told(error: Exception) -> str:
    """Somebody else's exception in one line, to be named in the message of one of ours."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class OpenedLayerWarning(UserWarning):
    """A layer that holds others was opened: a model of plain layers comes back in its place.

    Example:
        >>> import warnings
        >>> warnings.simplefilter("ignore", kmerge.OpenedLayerWarning)
    """


class ArchitectureMismatchError(KmergeError, ValueError):
    """Two models that were expected to have one architecture differ; the first difference is named.

    Example:
        >>> try:
        ...     kmerge.merge(model, keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))
        ... except kmerge.ArchitectureMismatchError as error:
        ...     print(str(error).partition(":")[0])
        The models differ, first in 'first'
    """
