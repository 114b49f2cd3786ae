"""Aligning two networks: what was only reordered is found, and no step makes the match worse."""

import itertools
import tracemalloc

import keras
import numpy as np
import pytest
from keras import layers

import kmerge
from kmerge.matching import METHODS, Pair, align, average, match, match_score
from tests import checks
from tests.models import ZOO, example_inputs

every_model = pytest.mark.parametrize("name", ZOO)


def network(name: str, seed: int = 0) -> keras.Model:
    return checks.parent(ZOO[name], seed)


def shuffled(name: str) -> tuple[dict, keras.Model]:
    """Random orders, and the network of seed 0 in them."""
    return checks.random_orders(network(name), 0), checks.permuted(ZOO[name])


def assert_restored(name: str, found: dict) -> None:
    """The orders that were found put every unit back where it was."""
    model, (orders, moved) = network(name), shuffled(name)
    assert found.keys() == orders.keys()
    wrong = {space: sum(found[space] != np.argsort(order)) for space, order in orders.items()}
    assert not any(wrong.values()), f"units in a wrong place: {wrong}"
    checks.assert_same_weights(align(model, moved, found), model)


# Constants in a configuration move with their units: a network that was reordered is of another architecture.
@pytest.mark.parametrize("name", sorted(ZOO.keys() - {"rescaling_inside"}))
def test_a_planted_permutation_is_recovered(name):
    assert_restored(name, match(network(name), shuffled(name)[1]))


@pytest.mark.parametrize("name", ["lenet", "shared_dense", "grouped_convolution"])
def test_transport_recovers_a_planted_permutation(name):
    assert_restored(name, match(network(name), shuffled(name)[1], "transport"))


@pytest.mark.parametrize("name", ["lenet", "siamese", "nested_two_deep"])
def test_activations_recover_a_planted_permutation(name):
    """On networks none of whose units is dead on the data."""
    data = example_inputs(network(name), batch=150)
    assert_restored(name, match(network(name), shuffled(name)[1], "activations", data))


# Every method on one network, and networks of other kinds on one method each.
@pytest.mark.parametrize(
    ("name", "method"),
    [
        *(("lenet", method) for method in METHODS),
        ("resnet8", "activations"),
        ("densenet", "transport"),
        ("siamese", "weights"),
        ("nested_two_deep", "transport"),
    ],
)
def test_fusing_a_network_with_itself_is_the_identity(name, method):
    model = network(name)
    order = match(model, model, method, example_inputs(model) if method == "activations" else None)
    assert all((found == np.arange(len(found))).all() for found in order.values())
    checks.assert_same_weights(average(model, align(model, model, order)), model)


@pytest.mark.parametrize(
    "name", ["lenet", "resnet8", "densenet", "siamese", "nested_two_deep", "channel_shuffle", "grouped_convolution"]
)
def test_no_step_lowers_the_score(name):
    pair = Pair(network(name), network(name, 1))
    begin = pair.score()
    for space in pair.uses:
        before = pair.score()
        gained = pair.improve(space)
        assert pair.score() > before if gained else pair.score() == before
    pair.descend(np.random.default_rng(0))
    assert pair.score() >= before >= begin
    order = match(network(name), network(name, 1))
    assert score_of(name, order) >= begin - 1e-9 * abs(begin)


def score_of(name: str, order: dict) -> float:
    """The score of two networks, the second reordered."""
    pair = Pair(network(name), network(name, 1))
    for space, permutation in order.items():
        pair.move(space, permutation)
    return pair.score()


@pytest.mark.parametrize("name", ["lenet", "resnet8", "inception", "mobilenet_se", "siamese", "channel_shuffle"])
def test_aligned_networks_compute_what_they_computed(name):
    model, other = network(name), network(name, 1)
    inputs, order = example_inputs(other), match(model, other)
    aligned = checks.check_arguments_unchanged([model, other], align, order)
    checks.assert_close(checks.outputs(aligned, inputs), checks.outputs(other, inputs), 1e-5)
    # The weights that matching moved are those that `align` moves.
    assert match_score(model, aligned) == pytest.approx(score_of(name, order) / norms(name), rel=1e-6)
    assert match_score(model, aligned) > match_score(model, other)


def norms(name: str) -> float:
    a, b = (Pair(network(name, seed), network(name, seed)).score() for seed in (0, 1))
    return float(np.sqrt(a * b))


@every_model
def test_the_average_is_the_mean_of_every_weight(name):
    model, other = network(name), network(name, 1)
    fused = checks.check_arguments_unchanged([model, other], average)
    checks.assert_same_interface(fused, model)
    for fused_weight, a, b in zip(fused.weights, model.weights, other.weights, strict=True):
        mean = (np.asarray(a, "float64") + np.asarray(b, "float64")) / 2
        np.testing.assert_allclose(fused_weight, mean, rtol=1e-5, atol=1e-6, err_msg=a.path)


def test_a_fused_model_loads_without_kmerge(tmp_path):
    model, other = network("resnet8"), network("resnet8", 1)
    hard = average(model, align(model, other, match(model, other)))
    checks.check_saves({"hard": hard}, tmp_path)


def test_one_space_is_matched_as_well_as_can_be():
    """Against all 24 orders of four units, which have incoming and outgoing weights and biases."""
    x = keras.Input((3,))
    model = keras.Model(x, layers.Dense(2)(layers.Dense(4, activation="relu", name="hidden")(x)))
    other = keras.models.clone_model(model)
    rng = np.random.default_rng(3)
    for each in (model, other):
        each.set_weights([rng.normal(size=w.shape) for w in each.weights])
    scores = {
        order: match_score(model, kmerge.permute(other, {"hidden": order}))
        for order in itertools.permutations(range(4))
    }
    assert tuple(match(model, other)["hidden"]) == max(scores, key=scores.get)


def test_the_score_is_the_cosine_of_all_weights():
    model, other = network("lenet"), network("lenet", 1)
    a, b = (np.concatenate([np.ravel(w) for w in each.weights]) for each in (model, other))
    assert match_score(model, other) == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-5)
    assert match_score(model, model) == pytest.approx(1)


def test_matching_repeats_by_seed():
    model, other = network("resnet8"), network("resnet8", 1)
    first, again = (match(model, other, seed=3) for _ in range(2))
    assert all((first[space] == again[space]).all() for space in first)


def test_units_that_never_change_stay_where_they_are():
    """A ReLU that is dead on the data correlates with nothing."""
    x = keras.Input((3,))
    h = layers.Dense(6, activation="relu", name="hidden")(x)
    model = keras.Model(x, layers.Dense(2)(h))
    bias = np.where(np.arange(6) < 2, -100.0, 0.0)
    model.get_layer("hidden").bias.assign(bias)
    order = match(model, model, "activations", np.random.default_rng(0).normal(size=(50, 3)))
    assert (order["hidden"] == np.arange(6)).all()


def test_no_large_array_is_made():
    """Behind a Flatten a kernel is far larger than its space squared; it is worked on in pieces."""
    x = keras.Input((10, 10, 4))
    h = layers.Conv2D(64, 1, name="conv")(x)
    h = layers.Dense(300, name="hidden")(layers.Flatten()(h))  # 6,400 x 300
    model = keras.Model(x, layers.Dense(2)(h))
    pair = Pair(model, model)
    assert pair.piece == 300**2
    tracemalloc.start()
    try:
        for name in pair.uses:
            pair.similarity(name)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 8 * pair.piece < 6_400 * 300 * 4


# Errors


def test_networks_of_two_architectures_are_refused():
    with pytest.raises(kmerge.ArchitectureMismatchError, match="The models differ, first in"):
        match(network("vgg11"), network("vgg11_bn"))


def test_constants_that_move_with_their_units_are_refused():
    """They stand in the configuration of a Rescaling, of which there is no mean."""
    model, moved = network("rescaling_inside"), shuffled("rescaling_inside")[1]
    with pytest.raises(kmerge.ArchitectureMismatchError, match="rescaling.*expected configuration"):
        average(model, moved)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("weight",), r"method to be one of .*, received 'weight'"),
        (("activations",), "'activations' needs data"),
        (("weights", np.zeros((4, 6))), "'weights' takes no data"),
        (("activations", np.zeros((0, 6))), "matching: expected data to be at least one batch, received none"),
        (("activations", np.full((4, 6), np.nan)), "Received: NaN"),
        (("activations", np.zeros((4, 7))), r"batches of shape \(None, 6\) for input .*, received \(4, 7\)"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(kmerge.InvalidArgumentError, match=message):
        match(network("mlp"), network("mlp", 1), *arguments)


def test_weights_that_are_not_finite_are_refused():
    broken = ZOO["mlp"](0)
    broken.weights[0].assign(np.full(broken.weights[0].shape, np.nan))
    with pytest.raises(kmerge.InvalidArgumentError, match="to be finite, received NaN or infinity"):
        match(network("mlp"), broken)
