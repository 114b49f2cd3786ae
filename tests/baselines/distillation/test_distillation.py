"""Distillation: the student alone is trained, by the teachers it was given, at the price it has."""

import contextlib
import dataclasses
import functools
import json

import keras
import numpy as np
import pytest

import kmerge
from baselines.distillation.imitation import imitating, logits_model, weights_of_student
from baselines.protocol.outcomes import training_flops
from baselines.protocol.phases import train_phase
from baselines.protocol.strategy import Stages
from baselines.protocol.task import BigTeacher, Budget
from benchmarks.networks.architectures import mlp, resnet
from benchmarks.strategies.registry import STRATEGIES
from benchmarks.suites.suite import load_suite
from tests.models import randomize
from tests.programs import without_programs
from tests.tiny_tasks import EagerShelf, StepByStep, tiny_digits, with_test_data

BUDGET = Budget(teacher=2, gates=1, finetune=1, single=6)
EXAMPLES = 64
NAMES = [name for name in STRATEGIES if name.startswith("distil_") and name != "distil_prune"]


@pytest.fixture(scope="module")
def sine():
    task = load_suite("sine").task(1, None, "unused", examples=EXAMPLES)
    return with_test_data(task, None)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    task = load_suite("digits").task(1, None, tmp_path_factory.mktemp("cache"), examples=EXAMPLES)
    return with_test_data(task, None)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return with_test_data(tiny_digits(tmp_path_factory.mktemp("cache"), EXAMPLES), None)


@pytest.fixture(scope="module")
def outcomes(tiny):
    shelf = EagerShelf()
    return {name: STRATEGIES[name](tiny, BUDGET, 1, shelf) for name in NAMES}


def classifier(seed, width=6, activation=None, dropout=0.0):
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((5,))
    x = keras.layers.Dense(width, kernel_regularizer=keras.regularizers.L2(0.1))(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.Dropout(dropout, seed=seed)(x)
    model = keras.Model(inputs, keras.layers.Dense(3, activation=activation)(x))
    randomize(model, seed)
    return model


def examples(n=16):
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, 5)).astype("float32"), rng.integers(0, 3, n)


def log_softmax(x):
    x = np.asarray(x, "float64")
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def sgd_fit(model, epochs=1, learning_rate=0.1, seed=1):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(learning_rate), loss, metrics=["accuracy"])
    with without_programs() if epochs < 10 else contextlib.nullcontext():
        return kmerge.fit(model, *examples(), epochs=epochs, seed=seed, validation_data=examples(), verbose=0).history


# The network that is trained


@pytest.mark.parametrize("feature_weight", [0.0, 0.5])
def test_outputs_are_the_students_and_only_the_student_learns(feature_weight):
    student, teachers = classifier(1), [classifier(2, dropout=0.5), classifier(3, width=4)]
    before = [teacher.get_weights() for teacher in teachers]
    model = imitating(student, teachers, temperature=3.0, feature_weight=feature_weight)
    x, _ = examples()
    np.testing.assert_allclose(model(x), student(x), rtol=1e-6)
    frozen = {id(w): np.asarray(w).copy() for w in model.non_trainable_variables}
    old = student.get_weights()
    history = sgd_fit(model)
    for teacher, weights in zip(teachers, before, strict=True):
        assert teacher.trainable
        for a, b in zip(teacher.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(a, b)
    own = {id(w) for w in student.weights}
    kept = [w for w in model.non_trainable_variables if id(w) not in own and "seed" not in w.path]
    assert kept and all(np.array_equal(frozen[id(w)], w) for w in kept)
    changed = [not np.array_equal(a, b) for a, b in zip(old, student.get_weights(), strict=True)]
    # The bias before BatchNormalization has no gradient.
    assert [c for c, w in zip(changed, student.weights, strict=True) if w.name != "bias"] == [True] * 6 and changed[-1]
    np.testing.assert_allclose(model(x), student(x), rtol=1e-6)
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    for a, b in zip(weights_of_student(model, student, model.get_weights()), student.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_loss_is_that_of_labels_teachers_and_regularizers():
    student, teachers = classifier(1), [classifier(2, dropout=0.5), classifier(3)]
    model = imitating(student, teachers, label_weight=0.25, temperature=3.0)
    x, y = examples()
    expected_target = log_softmax(np.mean([np.asarray(t(x)) for t in teachers], axis=0) / 3)
    # In training mode, as the step sees it: BatchNormalization uses the batch.
    own = log_softmax(student(x, training=True))
    own_soft = log_softmax(np.asarray(student(x, training=True)) / 3)
    divergence = np.mean(np.sum(np.exp(expected_target) * (expected_target - own_soft), -1)) * 9
    penalty = float(sum(student.losses))
    labels = -np.mean(own[np.arange(len(y)), y])
    history = sgd_fit(model, learning_rate=1e-9)
    assert history["loss"][0] == pytest.approx(labels + 0.75 * divergence + penalty, rel=1e-4)
    inference = -np.mean(log_softmax(student(x))[np.arange(len(y)), y])
    assert history["val_loss"][0] == pytest.approx(inference + penalty, rel=1e-3)  # no imitation: as any network's


def test_without_labels_labels_do_not_matter():
    x, y = examples()
    weights = []
    for labels in (y, 2 - y):
        student = classifier(1)
        model = imitating(student, [classifier(2)], label_weight=0.0, temperature=1.0)
        model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        with without_programs():
            kmerge.fit(model, x, labels, epochs=2, verbose=0)
        weights.append(student.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_teacher_of_ones_own_weights_teaches_nothing():
    """Without labels and penalties a student at its teacher stays there; a student elsewhere comes closer."""
    keras.utils.set_random_seed(1)
    teacher = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(3)])
    student = keras.models.clone_model(teacher)
    x, _ = examples()
    far = np.abs(log_softmax(teacher(x)) - log_softmax(student(x))).max()
    sgd_fit(imitating(student, [teacher], label_weight=0.0, temperature=2.0), epochs=150, learning_rate=0.5)
    near = np.abs(log_softmax(teacher(x)) - log_softmax(student(x))).max()
    assert near < 0.5 * far
    student.set_weights(teacher.get_weights())
    sgd_fit(imitating(student, [teacher], label_weight=0.0, temperature=2.0), epochs=3)
    for a, b in zip(student.get_weights(), teacher.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("behind", ["in the layer", "Activation", "Softmax"])
def test_a_final_softmax_is_set_aside(behind):
    plain = classifier(1)
    if behind == "in the layer":
        teacher = classifier(1, activation="softmax")
        teacher.set_weights(plain.get_weights())
    else:
        last = keras.layers.Softmax() if behind == "Softmax" else keras.layers.Activation("softmax")
        teacher = keras.Model(plain.input, last(plain.outputs[0]))
    x, _ = examples()
    before = np.asarray(teacher(x))
    np.testing.assert_allclose(logits_model(teacher)(x), plain(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(teacher(x), before)
    assert logits_model(plain) is plain


def test_refusals_name_what_to_do():
    student, teacher = classifier(1), classifier(2)
    averaged = keras.Model(teacher.inputs, keras.layers.Average()([teacher.outputs[0], teacher.outputs[0]]))
    for wrong in (classifier(2, activation="sigmoid"), averaged):
        with pytest.raises(kmerge.InvalidArgumentError, match=r"softmax that can be set aside.*Activation\('linear'\)"):
            imitating(student, [wrong], temperature=3.0)
    with pytest.raises(kmerge.InvalidArgumentError, match="student that puts out logits"):
        imitating(classifier(1, activation="softmax"), [teacher], temperature=3.0)
    other = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)], name="other")
    with pytest.raises(kmerge.ArchitectureMismatchError, match=r"same outputs: teacher 'other' has .*4.*student"):
        imitating(student, [other], temperature=3.0)
    with pytest.raises(kmerge.InvalidArgumentError, match="at least one teacher"):
        imitating(student, [])
    for setting, value in (("label_weight", 1.0), ("temperature", 0.0), ("feature_weight", -1.0)):
        with pytest.raises(kmerge.InvalidArgumentError, match=f"{setting}.*received {value}"):
            imitating(student, [teacher], **{setting: value})


def test_features_of_other_places_are_refused():
    def convolutional(size):
        inputs = keras.Input((6, 6, 1))
        x = keras.layers.Conv2D(2, size, padding="same")(inputs)
        x = x if size == 1 else keras.layers.MaxPooling2D(2)(x)
        return keras.Model(inputs, keras.layers.Conv2D(3, 3, strides=2 if size == 1 else 1, padding="same")(x))

    imitating(convolutional(1), [convolutional(3)], temperature=1.0)
    with pytest.raises(kmerge.ArchitectureMismatchError, match="may differ in channels only"):
        imitating(convolutional(1), [convolutional(3)], temperature=1.0, feature_weight=1.0)


# The strategies


def test_forward_passes_of_teachers_are_charged(tiny, outcomes):
    one, wide = (training_flops(tiny.build(1, widen=widen), tiny, 1) for widen in (1, 2))
    # Two teachers of two epochs, then two epochs of the student with two forward passes at a third each.
    assert outcomes["distil_two"].flops == pytest.approx((4 + 2 * (1 + 2 / 3)) * one)
    assert outcomes["distil_two_outputs"].flops == outcomes["distil_two"].flops
    # Twice the epochs for the one wide teacher, whose forward pass then counts once.
    assert outcomes["distil_big"].flops == pytest.approx(4 * wide + 2 * (one + wide / 3))
    assert outcomes["distil_two_features"].flops > outcomes["distil_two"].flops  # the regressor is trained, too
    for outcome in outcomes.values():
        assert sum(row["phase"] == "distil" for row in outcome.history) == 2


def test_what_teaches_makes_a_difference(outcomes):
    kernels = [outcome.model.get_weights()[0] for outcome in outcomes.values()]
    assert all(not np.array_equal(a, b) for i, a in enumerate(kernels) for b in kernels[:i])


def test_a_task_that_cannot_be_distilled_fails_before_training(digits):
    class Untouched(Stages):
        def run(self, key, build, train):
            raise AssertionError("a teacher was asked for")

    def build(seed, widen=1):
        model = digits.build(seed, widen=widen)
        return keras.Model(model.inputs, keras.layers.Softmax()(model.outputs[0]))

    task = dataclasses.replace(digits, build=build)
    with pytest.raises(kmerge.InvalidArgumentError, match="student that puts out logits"):
        STRATEGIES["distil_two"](task, BUDGET, 1, Untouched())


def test_a_phase_with_teachers_is_resumed_where_it_was(sine):
    class Noting(StepByStep):
        def __init__(self, state=None):
            self.state, self.seen = state, []

        def resume(self, key, check):
            return self.state

        def on_epoch(self, row, state):
            self.seen.append(state())

    def model():
        return imitating(sine.build(1), [sine.build(2)])

    whole, noting = model(), Noting()
    train_phase(whole, sine, "single", 2, 1, noting)
    rest = model()
    record = train_phase(rest, sine, "single", 2, 1, Noting(noting.seen[0]))
    assert len(record.rows) == 2
    for a, b in zip(whole.get_weights(), rest.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# A suite's own teacher


def with_teacher(task, build, epochs=3):
    phase = dataclasses.replace(task.phases["teacher"], learning_rate=0.02)
    teacher = dataclasses.replace(task, build=build, phases={**task.phases, "teacher": phase})
    teacher = dataclasses.replace(teacher, identity={**task.identity, "architecture": "the teacher's"})
    return dataclasses.replace(task, big_teacher=BigTeacher(teacher, epochs))


def deep(seed, outputs=1, widen=1):
    """A teacher of two hidden layers for the suite "sine", whose own network has one."""
    return mlp((1,), outputs, seed, hidden=(30, 20), widen=widen)


def test_the_suites_teacher_teaches_and_is_charged(sine):
    task, kept = with_teacher(sine, deep), {}
    teacher, student = (training_flops(net, sine, 1) for net in (deep(1), sine.build(1)))
    assert teacher == 6 * (30 + 600 + 20) * EXAMPLES != student
    for name, epochs in (("distil_big_outputs", BUDGET.gates + BUDGET.finetune), ("distil_prune", BUDGET.gates)):
        outcome = STRATEGIES[name](task, BUDGET, 1, EagerShelf(kept))
        rows = [row for row in outcome.history if row["phase"] == "teacher_0"]
        assert len(rows) == 3 and rows[0]["learning_rate"] == pytest.approx(0.02)
        tuning = sum(row["phase"] == "finetune" for row in outcome.history)
        assert tuning == (BUDGET.finetune if name == "distil_prune" else 0)
        rest = outcome.flops - 3 * teacher - epochs * (student + teacher / 3)
        # Of a pruned student's fine-tuning only what is left of it is charged.
        assert 0 < rest <= tuning * student if tuning else rest == pytest.approx(0, abs=1e-6 * student)
        assert outcome.teacher_epoch_equivalents == pytest.approx(outcome.flops / student)
    (key,) = (json.loads(key) for key in kept)  # both strategies share the teacher
    assert (key["architecture"], key["epochs"], key["widen"]) == ("the teacher's", 3, 1)


@pytest.mark.parametrize("name", ["distil_big", "distil_big_outputs", "distil_prune"])
def test_a_teacher_that_does_not_fit_is_refused_before_training(digits, sine, name):
    class Untouched(Stages):
        def run(self, key, build, train):
            raise AssertionError("a teacher was asked for")

    task = with_teacher(sine, functools.partial(deep, outputs=2))
    with pytest.raises(kmerge.ArchitectureMismatchError, match=r"same outputs: teacher 'mlp' has .*2.*student"):
        STRATEGIES[name](task, BUDGET, 1, Untouched())
    classes = functools.partial(resnet, (8, 8, 1), depth=8, width=4)
    with pytest.raises(kmerge.ArchitectureMismatchError, match=r"same outputs: teacher 'resnet8' has .*11.*student"):
        STRATEGIES[name](with_teacher(digits, functools.partial(classes, 11)), BUDGET, 1, Untouched())

    def squashed(seed, widen=1):
        net = classes(10, seed, widen=widen)
        return keras.Model(net.input, keras.layers.Activation("sigmoid", name="squash")(net.output), name="squashed")

    with pytest.raises(kmerge.InvalidArgumentError, match="softmax that can be set aside.*'squash'"):
        STRATEGIES[name](with_teacher(digits, squashed), BUDGET, 1, Untouched())
