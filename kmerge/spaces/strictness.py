"""Whether layers that no rule follows are refused, and the one warning that names those that run as they are."""

import contextlib
import weakref
from collections.abc import Iterator, Mapping
from contextvars import ContextVar

import keras

from kmerge.checks import warn
from kmerge.errors import UnfollowedLayerWarning, UnsupportedLayerError

_strict: ContextVar[bool] = ContextVar("strict", default=False)
_named: weakref.WeakSet = weakref.WeakSet()


def is_strict() -> bool:
    """Whether layers that no rule follows are refused."""
    return _strict.get()


@contextlib.contextmanager
def strict() -> Iterator[None]:
    """Refuses, within a `with` block, each layer that no rule follows, instead of letting it run as it is.

    Example:
        >>> with kmerge.strict():
        ...     small = kmerge.prune(model, budget=0.5)      # UnsupportedLayerError would name the first such layer
    """
    token = _strict.set(True)
    try:
        yield
    finally:
        _strict.reset(token)


def warn_of_unfollowed(layers: Mapping[str, keras.Operation], unfollowed: Mapping[str, UnsupportedLayerError]) -> None:
    """Names, once for each layer, those that run as they are.

    Args:
        layers: layers by path.
        unfollowed: why they run as they are, by path.
    """
    new = {path: error for path, error in unfollowed.items() if layers[path] not in _named}
    if not new:
        return
    _named.update(layers[path] for path in new)
    error = next(iter(new.values()))
    more = f" So do {', '.join(list(new)[1:6])}{' and others' if len(new) > 6 else ''}." if len(new) > 1 else ""
    warn(
        f"Layer {error.layer!r} ({error.kind}) runs as it is, its channels fixed: {error.why} {error.remedy}{more} "
        "kmerge.channel_spaces lists what is fixed and why; kmerge.strict() refuses such layers.",
        UnfollowedLayerWarning,
    )
