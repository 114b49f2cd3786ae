"""What an `AutoSizer` refuses before any work."""

import math
from collections.abc import Sequence

import numpy as np

from kmerge.errors import InvalidArgumentError
from kmerge.regularizers import UnitRegularizer
from kmerge.sizing.unit_routes import UnitPaths
from kmerge.surgery import by_space

_PRUNE = ("period", "end", "never")
_STATES = ("carry", "restart")


def _refuse(name: str, expected: str, received: object) -> None:
    raise InvalidArgumentError(f"AutoSizer: {name} must be {expected}, received {received!r}.")


def is_number(value: object) -> bool:
    """Whether it is a finite real number."""
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= least


def check_alpha(alpha: object) -> None:
    """Raises unless alpha is a positive number."""
    if not is_number(alpha) or alpha <= 0:
        _refuse("alpha", "a positive number, or a function of the epoch that gives one; use fit for no penalty", alpha)


def check_options(
    growth: float | str,
    min_growth: int,
    threshold: float,
    period: int,
    min_units: int,
    prune: str,
    optimizer_state: str,
) -> None:
    """Raises if an option is out of its range."""
    if not is_number(threshold) or threshold <= 0:
        _refuse(
            "threshold (tau)", "a positive number: units below it are dropped, and new units have its size", threshold
        )
    if growth != "adaptive" and (not is_number(growth) or growth < 0):
        _refuse("growth", 'a share of the units, 0 or more, or "adaptive"', growth)
    for name, value, least in (("min_growth", min_growth, 0), ("period", period, 1), ("min_units", min_units, 1)):
        if not _is_whole(value, least):
            _refuse(name, f"a whole number of at least {least}", value)
    if prune not in _PRUNE:
        _refuse("prune", f"one of {_PRUNE}", prune)
    if growth == "adaptive" and prune != "period":
        _refuse("prune", 'with growth="adaptive" "period", as it looks at which new units stay', prune)
    if optimizer_state not in _STATES:
        _refuse("optimizer_state", f"one of {_STATES}", optimizer_state)


def check_optional(name: str, value: int | None, least: int) -> None:
    """Raises unless an option is None or a whole number of at least so much."""
    if value is not None and not _is_whole(value, least):
        _refuse(name, f"a whole number of at least {least}, or None", value)


def check_proximal(penalty: UnitRegularizer, paths: UnitPaths, names: Sequence[str]) -> None:
    """Raises unless the proximal step of the penalty is known for these spaces."""
    kind = type(penalty)
    if kind.shrunk is UnitRegularizer.shrunk:
        _refuse("proximal", f"False with {kind.__name__}, whose step is not known here; take weighted_l1", True)
    if penalty.of_each_weight:
        return
    spaces = paths.walked.spaces
    for path in paths.paths:
        scaled = paths.scale_of(path)
        if scaled is not None and any(path.maker in spaces[name].owners for name in names):
            _refuse(
                "proximal",
                f"False with {kind.__name__} where a normalization scales units, as {scaled} does: gamma and beta weigh "
                "differently in its norm, so that the proximal step has no closed form; take weighted_l1",
                True,
            )


def sizable_spaces(paths: UnitPaths, asked: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """The spaces whose sizes are learned, and why the others are not.

    Args:
        paths: the paths of the model's units.
        asked: names of spaces, or of layers that make them; None for all.

    Raises:
        InvalidArgumentError: for a space that cannot be sized, or if there is none.
    """
    spaces = paths.walked.spaces
    reasons = {name: paths.not_sizable(name) for name in spaces}
    names = [name for name in spaces if reasons[name] is None]
    if asked is not None:
        chosen = list(by_space(spaces, dict.fromkeys([asked] if isinstance(asked, str) else asked)))
        for name in chosen:
            if reasons[name] is not None:
                raise InvalidArgumentError(f"AutoSizer: space {name!r} cannot be sized: {reasons[name]}.")
        reasons.update({name: "it is not among the spaces asked for" for name in names if name not in chosen})
        names = [name for name in names if name in chosen]
    if not names:
        listed = "; ".join(f"{name}: {why}" for name, why in reasons.items() if why)
        raise InvalidArgumentError(
            f"AutoSizer: model {paths.walked.model.name!r} has no channel space that can be sized ({listed}). A space needs "
            "a Dense or convolution layer that makes it, and another that reads it."
        )
    return names, {name: why for name, why in reasons.items() if why}
