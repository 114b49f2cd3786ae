"""Merging: several trained networks of one architecture become one of the same size.

    big = kmerge.merge(model_a, model_b)          twice as wide, a gate on every channel
    ... train it: the gates learn which channels matter ...
    student = kmerge.compress(big)                the best half of every space, in model_a's own architecture

Reference: Pašen & Boža, Merging of Neural Networks, Neural Processing Letters 2024, section 2.
"""

from collections.abc import Mapping

import keras

from kmerge.checks import is_number, one_of, refuse, warn
from kmerge.checks import seed as check_seed
from kmerge.costs import Budget, target_widths
from kmerge.gates import SAMPLINGS
from kmerge.merging.checks import (
    refuse_moved_examples,
    refuse_opaque,
    refuse_several_constants,
    warn_of_equal,
    warn_of_joint_statistics,
    warn_of_unsavable,
    warn_of_whole_layers,
)
from kmerge.merging.gate_placement import GatePlacement
from kmerge.merging.heads import HEADS, with_common_heads
from kmerge.merging.records import keep_plan, kept_whole, merge_plan
from kmerge.merging.regions import Region
from kmerge.pairing import paired_layers
from kmerge.spaces import Trace, check_selectable, trace, warn_of_unfollowed
from kmerge.surgery import (
    CommonWidths,
    Gating,
    Layout,
    at_common_widths,
    build,
    check_all_finite,
    constants_of,
    fill,
    for_surgery,
    listed,
    model_source,
    needs_copies,
    needs_mean,
)


def merge(
    *models: keras.Model,
    width: float | Mapping[str, int | float] | Budget = 1.0,
    gates: str | float = "paper",
    sampling: str = "example",
    heads: str = "same",
    seed: int = 0,
) -> keras.Model:
    """Joins trained models of one architecture into a big student whose gates learn which channels to keep.

    The big student is a Functional model to compile with `gate_optimizer` and to fit with `GatePressure`. With open gates
    it gives the mean of the parents' logits. Nested models are flattened in it; `compress` brings them back.

    Args:
        *models: two or more Functional or Sequential models of one architecture, or one list of them. Their widths may
            differ: the student has the first one's, if `width` does not say otherwise.
        width: what `compress` will cut to, next to the first parent's widths: a share of every space (a float); for
            some spaces, by name, a share or a number of units; or a `Budget`, whose shares are of the parent's costs, and
            which is met by the largest equal share of every space, rounded up where that fits. At most as many times the
            parent's widths as there are models.
        gates: start of the gates: "paper" (loc = 1: the gates let .777 through in inference), "open" (all gates 1) or
            a number, the mean of `loc`.
        sampling: "example" for gates drawn for each example (paper), "batch" for one draw per batch.
        heads: "same" where all models have the same outputs, whose mean is taken. For models that share all but the layer that
            makes the logits: "join" gives the student one head with the outputs of all, in their order, such as the
            classes of both parents; "both" gives it a head for each parent.
        seed: seed of the gates' start and noise.

    Returns:
        A gated `keras.Model`, as many times as wide as there are models.

    Raises:
        ArchitectureMismatchError: names the first layer that differs.
        UnsupportedLayerError: names a layer whose channels cannot be followed.
        InvalidArgumentError: for fewer than two models, weights that are not finite, a model without a free space, a
            width out of range or a budget that cannot be reached.

    Warns:
        UserWarning: if two of the models are equal; if the architecture cannot hold the parents' mean, as with
            BatchNormalization right on an input; if a layer normalizes over channels, which it does over those of all
            parents together.

    Reference:
        Pašen & Boža 2024, section 2.1 and 2.2.

    Example:
        >>> big = kmerge.merge(model, other, gates="open")
        >>> big.get_layer("first").units
        12
        >>> np.allclose(big(x), (model(x) + other(x)) / 2, atol=1e-5)
        True
    """
    models = for_surgery(listed(models))
    if one_of("heads", heads, HEADS) != "same":
        models = with_common_heads(models, heads)
    common = at_common_widths(models)
    if common.sizes:
        width = target_widths(trace(models[0]), width, most=len(models))
    return _gated(common, width, gates, sampling, seed, f"{models[0].name}_big")


def gate(
    model: keras.Model,
    width: float | Mapping[str, int | float] | Budget,
    *,
    gates: str | float = "open",
    sampling: str = "example",
    seed: int = 0,
) -> keras.Model:
    """Puts a gate on each unit of one model that may go: pruning whose choice is learned.

    It is `merge` with a single model: compile the result with `gate_optimizer`, fit it with `GatePressure`, and
    `compress` it.

    Args:
        model: a Functional or Sequential model.
        width: what `compress` will cut to; as for `merge`, and at most the model's own widths.
        gates: start of the gates: "open" gives the model's own outputs, "paper" starts at loc = 1, a number is the mean
            of `loc`.
        sampling: "example" for gates drawn for each example (paper), "batch" for one draw per batch.
        seed: seed of the gates' start and noise.

    Returns:
        A gated `keras.Model` of the model's widths.

    Raises:
        UnsupportedLayerError: names a layer whose channels cannot be followed.
        InvalidArgumentError: for weights that are not finite, a model without a free space, a width out of range or a
            budget that cannot be reached.

    Reference:
        Louizos et al., Learning Sparse Neural Networks through L0 Regularization, 2018.

    Example:
        >>> gated = kmerge.gate(model, kmerge.Budget(parameters=0.5))
        >>> np.allclose(gated(x), model(x), atol=1e-5)
        True
    """
    (model,) = for_surgery([model])
    alone = CommonWidths((model,), {}, [paired_layers(model, model)])
    return _gated(alone, width, gates, sampling, seed, f"{model.name}_gated")


def _gated(common: CommonWidths, width, gates, sampling: str, seed: int, name: str) -> keras.Model:
    """A model with gates on the units of one model or several."""
    models = common.models
    if not is_number(gates) and not (isinstance(gates, str) and gates in ("paper", "open")):
        refuse("gates", "'paper', 'open' or a finite number", gates)
    start = 1.0 if isinstance(gates, str) and gates == "paper" else gates
    one_of("sampling", sampling, SAMPLINGS)
    check_seed("seed", seed)
    arrays = check_all_finite(models)
    walked = trace(models[0], for_merge=len(models) > 1, for_gates=True)
    warn_of_unfollowed(walked.layers, walked.unfollowed)
    check_selectable(walked)
    widths = target_widths(walked, width, most=len(models))
    whole = kept_whole(walked, len(models))
    refuse_opaque(walked, whole, models)
    if sampling == "example":
        refuse_moved_examples(walked)
    refuse_several_constants(walked)
    if len(models) > 1:
        _warn_of_inexact(walked, whole)
        warn_of_joint_statistics(walked)
        warn_of_whole_layers(whole)
        warn_of_equal(models)
    plan = merge_plan(walked, len(models), common.entries())
    # Refuses now, not after the training, widths that no student can have.
    first = {region.name: 0 for region in whole}
    for space, size in widths.items():
        if size > len(plan.entries[space]):
            refuse(f"the width of space {space!r}", f"at most the {len(plan.entries[space])} units of all models", size)
    Layout(walked, keep_plan(walked, plan, {name: range(size) for name, size in widths.items()}, first))
    layout = Layout(walked, plan)
    gating = GatePlacement(layout, widths, start, sampling, seed)
    warn_of_unsavable(gating.record)
    known = zip(models, arrays, common.layers, strict=True)
    sources = [model_source(walked, plan, i, *of_one) for i, of_one in enumerate(known)]
    hooks = Gating(gating.start, gating.apply, gating.inside, gating.record.note)
    big, layers = build(layout, hooks, name, constants_of(layout, sources))
    gating.finish(big, layers)
    fill(layers, layout, sources)
    return big


def _warn_of_inexact(walked: Trace, whole: list[Region]) -> None:
    inexact = [s.name for s in walked.spaces.values() if needs_copies(s) or s.is_output and needs_mean(s)]
    apart = {name for region in whole for name in region.spaces}
    inexact += [s.name for s in walked.spaces.values() if not s.selectable and s.is_interior and s.name not in apart]
    if inexact:
        warn(
            f"The architecture has one place for what the parents have one each of, in the spaces {inexact}: their weights "
            "are averaged there, and the big student starts near the mean of the parents, not at it. Training repairs "
            "this; kmerge.concatenate is exact."
        )
