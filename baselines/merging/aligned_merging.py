"""Align first, merge what is nearly equal, and leave the rest to gates.

Two trained networks, their units brought into one order, have pairs of units that do nearly the same, and others. What the
journal version of the merging paper proposes as future work is to average the first and to choose among the second. With
four channels of which units 0 and 2 are nearly equal,

    A       a0 a1 a2 a3
    B       b0 b1 b2 b3        aligned to A
    joint   c0 c2 | a1 a3 | b1 b3        c = one unit for the pair; six channels, and four stay after the cut

A pair is one unit of a `kmerge.Plan`: what makes it is averaged, what reads it reads both units there. So where the two
units are equal, nothing changes: the joint network gives the mean of the logits, as the big student of a merge does. Layers
that normalize over units do so over all of them together, as in a merge, so there it starts near the mean.

No paper describes more than that sentence. How pairs are measured, and at what value they count as nearly equal, is ours.

Reference: Pašen & Boža, Merging of Neural Networks, Neural Processing Letters 2024, section on future work.
"""

from collections.abc import Mapping, Sequence

import keras
import numpy as np

import kmerge
from kmerge.matching import align, concordances, match
from kmerge.merging import read_merge
from kmerge.spaces import trace
from kmerge.surgery import COMMON

# At this `loc` a gate is 1 in every draw, and neither the loss nor the penalty has a gradient there in float32.
_ALWAYS_OPEN = 40.0


def nearly_equal(
    model: keras.Model, aligned: keras.Model, data: np.ndarray | Sequence[np.ndarray], threshold: float
) -> dict[str, np.ndarray]:
    """The units of two networks that do nearly the same, where layers read them.

    Args:
        model: a network.
        aligned: another of its architecture, with its units in the same order.
        data: inputs: an array, or a list with one for each input.
        threshold: the least concordance (`unit_correlation.concordances`) of a pair; above 1 none is nearly equal.

    Returns:
        For each selectable space ascending indices of units. Spaces whose units lie in no tensor, as the heads of an
        attention, have none.
    """
    walked = trace(model)
    found = concordances(walked, (model, aligned), data)
    nothing = np.empty(0)
    return {s.name: np.flatnonzero(found.get(s.name, nothing) >= threshold) for s in walked.spaces.selectable}


def join(model: keras.Model, aligned: keras.Model, merged: Mapping[str, np.ndarray]) -> keras.Model:
    """One network with the units of two, in which some pairs are one unit.

    Args:
        model: gives structure and names.
        aligned: another network of its architecture, with its units in the same order.
        merged: for each selectable space the units that become one with those in their places.

    Returns:
        A plain model. A space of n units of which m are merged has m + 2 (n - m): the merged ones, then the other units
        of the first network, then those of the second.
    """
    entries = {}
    for space in trace(model).spaces.selectable:
        rest = np.setdiff1d(np.arange(space.size), merged[space.name]).tolist()
        common = [(COMMON, int(i)) for i in merged[space.name]]
        entries[space.name] = common + [(source, i) for source in (0, 1) for i in rest]
    return kmerge.rewrite(model, [model, aligned], kmerge.Plan(2, entries, apart=False))


def gate_the_rest(
    model: keras.Model, aligned: keras.Model, merged: Mapping[str, np.ndarray], sampling: str, seed: int
) -> keras.Model:
    """The big student of two aligned networks: `join`, with gates on the units that are not merged.

    Args:
        model: gives structure, names and the widths to cut to.
        aligned: another network of its architecture, with its units in the same order.
        merged: for each selectable space the units that become one with those in their places.
        sampling: as for `kmerge.merge`.
        seed: of the gates.

    Returns:
        A gated model to train and to `kmerge.compress`, to the widths of `model`. Without merged units it is what
        `kmerge.merge(model, aligned)` gives; merged units have gates that are open for good.
    """
    widths = {space.name: space.size for space in kmerge.channel_spaces(model).selectable}
    big = kmerge.gate(join(model, aligned, merged), widths, gates="paper", sampling=sampling, seed=seed)
    for name, gate in read_merge(big).gates.items():
        loc = np.asarray(gate.loc).copy()
        loc[: len(merged[name])] = _ALWAYS_OPEN
        gate.loc.assign(loc)
    return big


def aligned_big_student(
    model: keras.Model, other: keras.Model, data: np.ndarray, threshold: float, sampling: str, seed: int
) -> tuple[keras.Model, dict[str, float]]:
    """Aligns two networks by their activations, merges what is nearly equal and gates the rest.

    Args:
        model: gives structure, names and widths.
        other: another network of its architecture.
        data: inputs to match and to compare units on.
        threshold: the least concordance of a pair that is merged.
        sampling: as for `kmerge.merge`.
        seed: of the gates.

    Returns:
        The big student, and the share of the units of all spaces that were merged.
    """
    aligned = align(model, other, match(model, other, "activations", data))
    merged = nearly_equal(model, aligned, data, threshold)
    sizes = [space.size for space in kmerge.channel_spaces(model).selectable]
    share = sum(map(len, merged.values())) / sum(sizes)
    return gate_the_rest(model, aligned, merged, sampling, seed), {"units_merged": share}
