"""Which spaces of a model an `AutoSizer` can size, what it refuses, and what it warns of."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np

from kmerge import checks
from kmerge.errors import InvalidArgumentError
from kmerge.regularizers import UnitRegularizer
from kmerge.sizing.optimizer_slots import find_slots
from kmerge.sizing.options import SizingOptions
from kmerge.sizing.unit_routes import UnitRoutes
from kmerge.surgery import by_space


class SizingWarning(UserWarning):
    """Sizing works, but not as well as one may expect; the message says why.

    Example:
        >>> import warnings
        >>> warnings.simplefilter("error", kmerge.SizingWarning)
    """


@contextlib.contextmanager
def handed_to_keras(method: str, x: object, batch_size: int | None) -> Iterator[None]:
    """Says in our words what a method of `keras.Model` says of its data.

    Args:
        method: name of the method.
        x: its data.
        batch_size: examples per batch, or None.
    """
    of = f"AutoSizer.{method}"
    checks.whole_number("batch_size", batch_size, optional=True, of=of)
    with checks.in_our_words(f"data that keras.Model.{method} takes", type(x).__name__, of=of):
        yield


def warn_of(options: SizingOptions, optimizer: keras.optimizers.Optimizer, exact: Sequence[str]) -> None:
    """Warns where new units hardly stay, or idle units are not zero.

    Args:
        options: of the sizer.
        optimizer: that trains.
        exact: the spaces that get no room.
    """
    slots = find_slots(optimizer, [keras.Variable(np.zeros(1))])
    if options.grow and all(slot.start is None for slot in slots):  # an average of weights changes no step
        checks.warn(
            f"Optimizer {type(optimizer).__name__} keeps no state for each weight. It steps by the gradient alone, which "
            "hardly moves units of the size of the threshold, so few new units will stay. Take Adam, or RMSprop.",
            SizingWarning,
        )
    if exact:
        checks.warn(
            f"Idle units of {', '.join(exact)} are not zero where they are read, as an activation with f(0) != 0 "
            "follows. A dropped unit leaves a constant, so pruning changes the outputs where that cannot be carried into "
            "a bias; and each change of size compiles a new program. Activations with f(0) = 0, as relu, avoid both.",
            SizingWarning,
        )


def check_compile(arguments: Mapping) -> None:
    """Raises for arguments of `AutoSizer.compile` of another kind; losses and metrics are Keras' to check."""
    of = "AutoSizer.compile"
    _check_loss_weights(arguments["loss_weights"], of)
    for name in ("run_eagerly", "auto_scale_loss"):  # None is False, as in older code
        checks.one_of(name, arguments[name], (True, False, None), of=of)
    checks.whole_number("steps_per_execution", arguments["steps_per_execution"], optional=True, of=of)
    checks.one_of("jit_compile", arguments["jit_compile"], ("auto", True, False, None), of=of)


def _check_loss_weights(loss_weights: object, of: str) -> None:
    """Raises if metrics came in their place."""
    try:
        weights = keras.tree.flatten(loss_weights)
    except RecursionError:  # lists in lists without end
        weights = [loss_weights]
    for weight in weights:
        is_array = isinstance(weight, keras.Variable | np.ndarray) or keras.ops.is_tensor(weight)
        is_scalar = is_array and tuple(weight.shape) == () and checks.is_number(np.asarray(weight).item())
        if weight is not None and not checks.is_number(weight) and not is_scalar:
            do = "Metrics come after it, as in keras.Model.compile: write metrics=[...]."
            checks.refuse("loss_weights", "numbers", weight, do, of=of)


def check_proximal(penalty: UnitRegularizer, routes: UnitRoutes, names: Sequence[str]) -> None:
    """Raises unless the proximal step of the penalty is known for these spaces."""
    kind = type(penalty)
    if kind.shrunk is UnitRegularizer.shrunk:
        expected, do = f"False with {kind.__name__}, whose step is not known here", "Take weighted_l1."
        checks.refuse("proximal", expected, True, do, of="AutoSizer")
    if penalty.of_each_weight:
        return
    spaces = routes.walked.spaces
    for route in routes.routes:
        scaled = routes.scale_of(route)
        if scaled is not None and any(route.maker in spaces[name].owners for name in names):
            checks.refuse(
                "proximal",
                f"False with {kind.__name__} where a normalization scales units, as {scaled} does",
                True,
                "Gamma and beta weigh differently in its norm, so that the proximal step has no closed form: take "
                "weighted_l1.",
                of="AutoSizer",
            )


def sizable_spaces(routes: UnitRoutes, asked: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """The spaces whose sizes are learned, and why the others are not.

    Args:
        routes: the routes of the model's units.
        asked: names of spaces, or of layers that make them; None for all.

    Raises:
        InvalidArgumentError: for a space that cannot be sized, or if there is none.
    """
    spaces = routes.walked.spaces
    reasons = {name: routes.not_sizable(name) for name in spaces}
    names = [name for name in spaces if reasons[name] is None]
    if asked is not None:
        chosen = list(by_space(spaces, dict.fromkeys([asked] if isinstance(asked, str) else asked)))
        for name in chosen:
            if reasons[name] is not None:
                raise InvalidArgumentError(
                    f"AutoSizer: expected spaces that can be sized, received {name!r}, which cannot be: {reasons[name]}. "
                    "`AutoSizer(model).left` names all that cannot."
                )
        reasons.update({name: "it is not among the spaces asked for" for name in names if name not in chosen})
        names = [name for name in names if name in chosen]
    if not names:
        listed = "; ".join(f"{name}: {why}" for name, why in reasons.items() if why)
        raise InvalidArgumentError(
            f"AutoSizer: expected a model to size, received {routes.walked.model.name!r}, which has no channel space that can "
            f"be sized ({listed}). A space needs a Dense or convolution layer that makes it, and another that reads it."
        )
    return names, {name: why for name, why in reasons.items() if why}
