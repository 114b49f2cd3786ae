"""Suites: files that say everything, scaling that keeps the shape of schedules, errors that name the key."""

import functools
import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from baselines.distillation.distillation import big_teacher
from baselines.protocol.task import Budget
from baselines.protocol.teachers import train_teacher
from benchmarks.checkout import SIZING_CODE, TRAINING_CODE
from benchmarks.strategies.registry import SIZING, STRATEGIES
from benchmarks.suites import suite as suites
from benchmarks.suites.suite import PHASES, SUITES, SuiteError, load_suite
from tests.programs import without_programs
from tests.tiny_tasks import Shelf


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def edited(tmp_path, *changes, name="digits"):
    """A copy of a suite's file with replacements."""
    text = (suites.FOLDER / f"{name}.toml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def test_the_suites_of_the_papers_are_there():
    assert {"cifar100", "cifar10_vgg11", "digits", "fashion_mnist", "sine"} <= set(SUITES)
    assert {"robots_lenet", "robots_lenet_resnet101", "robots_resnet18"} <= set(SUITES)


# Suites for auto-sizing alone have no other phase than "single".
MERGING = [name for name in SUITES if "phases" in load_suite(name).definition]
# All but that for the paper's row of fewer epochs.
EQUAL = [name for name in MERGING if name != "imagenet_resnet18_90"]


def test_suites_of_auto_sizing_alone_have_one_phase():
    alone = set(SUITES) - set(MERGING)
    assert alone == {name for name in SUITES if name.startswith("das_")} and {"das_mnist", "das_ablation"} <= alone
    for name in alone:
        assert vars(load_suite(name).budget(0.1)) | {"single": 0} == dict.fromkeys(PHASES, 0)
        assert load_suite(name).budget().single in (26, 40) and set(load_suite(name).strategies) <= SIZING


@pytest.mark.parametrize("name", EQUAL)
def test_budgets_of_strategies_are_equal(name):
    budget = load_suite(name).budget()
    assert 2 * budget.teacher + budget.gates + budget.finetune == budget.single
    if name == "imagenet_resnet18":
        assert vars(budget) == {"teacher": 20, "gates": 20, "finetune": 90, "single": 150}
        return
    if name == "cifar100_b512_early":
        assert vars(budget) == {"teacher": 100, "gates": 50, "finetune": 350, "single": 600}
        return
    if name == "robots_shapes":  # no network of two teachers' epochs is trained there
        assert vars(budget) == {"teacher": 2, "gates": 2, "finetune": 1, "single": 7}
        return
    assert 3 * budget.teacher == budget.single
    assert budget.teacher == 2 * budget.gates == 2 * budget.finetune


@pytest.mark.parametrize("name", SUITES)
def test_hyper_parameters_name_their_source(name):
    for line in (suites.FOLDER / f"{name}.toml").read_text().splitlines():
        if line.startswith(("[phases.", "[architecture", "[epochs")) and name == "sine":
            assert "code" in line or "architecture" in line
    assert "paper" in (suites.FOLDER / f"{name}.toml").read_text()


@pytest.mark.parametrize("name", SUITES)
def test_reported_seeds_are_not_those_of_choosing(name):
    assert min(load_suite(name).seeds) >= 100


def test_sine_has_the_papers_numbers():
    suite = load_suite("sine")
    budget = suite.budget()
    assert (budget.teacher, budget.gates, budget.finetune, budget.single) == (300, 150, 150, 900)
    task = suite.task(0, None, "unused")
    assert task.phases["teacher"].drops == (250 / 300,)
    assert task.phases["single"].drops == (800 / 900,)
    assert task.gates.controls["paper"] == {"start": 0.01, "step": 0.05}
    assert task.build(1).count_params() == 301
    assert isinstance(task.loss(), keras.losses.MeanSquaredError) and not task.higher_is_better


def test_scale_multiplies_epochs_and_keeps_one_each():
    suite = load_suite("cifar100")
    assert vars(suite.budget(0.1)) == {"teacher": 20, "gates": 10, "finetune": 10, "single": 60}
    assert vars(suite.budget(0.001)) == {"teacher": 1, "gates": 1, "finetune": 1, "single": 4}


@pytest.mark.parametrize("scale", [0.001, 0.007, 0.013, 0.3, 1.0])
def test_one_network_has_the_epochs_of_merging_at_every_scale(scale):
    for name in EQUAL:
        budget = load_suite(name).budget(scale)
        assert budget.single == 2 * budget.teacher + budget.gates + budget.finetune


def test_a_suite_that_gives_one_network_other_epochs_keeps_them(tmp_path):
    suite = load_suite(edited(tmp_path, ("single = 60", "single = 100")))
    assert suite.budget().single == 100 and suite.budget(0.5).single == 50


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(SuiteError, match="expected a number above 0, received"):
        load_suite("sine").budget(scale)


def test_scaled_pressure_ends_lower_by_what_the_files_say(cache):
    """Step times epochs stays; the end does not: lambda's growth, step * sqrt(lambda), is then added less often."""

    def final(name, scale=1.0):
        suite = load_suite(name)
        settings = suite.task(0, None, cache, scale=scale).gates.controls["paper"]
        pressure = settings["start"]
        for _ in range(suite.budget(scale).gates):
            pressure += settings["step"] * pressure**0.5
        return pressure

    file = (suites.FOLDER / "digits.toml").read_text()
    assert final("sine") == pytest.approx(14.47, abs=0.01)  # The code's.
    assert final("sine", 0.2) == pytest.approx(13.16, abs=0.01)
    assert final("digits") == pytest.approx(5.90, abs=0.01) and "here over 10, to 5.90" in file
    assert final("digits", 10) == pytest.approx(7.25, abs=0.01) and "over 100 epochs, to 7.25" in file


def test_classification_takes_logits(cache):
    task = load_suite("digits").task(0, None, cache)
    model = task.build(1)
    assert task.higher_is_better and model.output_shape == (None, 10)
    labels, logits = task.data.y_val, model.predict(task.data.x_val, verbose=0)
    shifted = logits - logits.max(axis=1, keepdims=True)
    expected = np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels])
    assert float(task.loss()(labels, logits)) == pytest.approx(expected, rel=1e-5)


def test_identity_is_json_and_tells_tasks_apart(cache, tmp_path):
    digits = load_suite("digits")
    whole, scaled, few = (digits.task(0, None, cache, *how).identity for how in ((), (0.5,), (1.0, 100)))
    assert json.loads(json.dumps(whole)) == whole
    assert whole == scaled != few  # Teachers depend on their epochs, which are in their key, not on the scale.
    other = load_suite(edited(tmp_path, ("width = 8", "width = 4"))).task(0, None, cache)
    assert other.identity != whole
    sines = [load_suite("sine").task(seed, None, "unused").identity for seed in (1, 2)]
    assert sines[0] != sines[1]


def test_identity_covers_the_code_of_training_and_of_sizing(cache, monkeypatch):
    asked = []
    monkeypatch.setattr(suites, "digest_of", lambda *places: asked.append(places) or "digest")
    task = load_suite("das_digits").task(0, None, cache)
    assert task.identity["code"] == task.sizing.code == "digest"
    assert set(asked) == {TRAINING_CODE, SIZING_CODE}


def test_listing_imports_no_keras():
    script = (
        "import sys, benchmarks.run; from benchmarks.suites.suite import SUITES, load_suite;"
        "from benchmarks.strategies.registry import STRATEGIES;"
        "[load_suite(name).budget(0.1) for name in SUITES]; list(STRATEGIES); assert 'l0_merge' in STRATEGIES;"
        "print([m for m in ('keras', 'tensorflow', 'jax', 'sklearn', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_suite_names_the_known():
    with pytest.raises(SuiteError, match=r"one of cifar100, cifar100_900, .*, received 'cifar'\. Did you mean cifar100"):
        load_suite("cifar")


def test_a_suite_of_the_users_own(tmp_path):
    suite = load_suite(edited(tmp_path, ("teacher = 20", "teacher = 4"), ("drops = [10, 15]", "drops = [2, 3]")))
    assert suite.name == "mine" and suite.budget().teacher == 4
    assert suite.definition != load_suite("digits").definition


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('dataset = "digits"', "", r"missing keys \['dataset'\]"),
        ('dataset = "digits"', 'dataset = "digit"', "dataset: expected one of cifar10, .*'digit'. Did you mean digits"),
        ("metric =", "metrik =", r"received unknown keys \['metrik'\] and missing keys \['metric'\]. Did you mean metric\?"),
        ('"one_model"', '"two_models"', "strategies: expected one of l0_merge, .*'two_models'. Did you mean one_model"),
        ("seeds = [100, 109]", "seeds = [109, 100]", r"seeds: expected \[first, last\], whole.*received \[109, 100\]"),
        ("runs_per_process = 10", "runs_per_process = 0", "runs_per_process: expected a whole number of at least 1"),
        ("teacher = 20", "teacher = 0", "epochs.teacher: expected a number of epochs of at least 1 .*, received 0"),
        ("teacher = 20", "teachers = 20", r"\[epochs\]: .*unknown keys \['teachers'\] and missing keys \['teacher'\]"),
        ("momentum = 0.9", "momentum = 1.5", "of at least 0 and below 1, received 1.5. Write momentum = 0.9"),
        ("nesterov = false", "", r"\[phases.teacher\]: .*, received missing keys \['nesterov'\]"),
        ("drops = [10, 15]", "drops = [15, 25]", "drops: expected epochs above 0 and below 20, received 25"),
        ('control = "paper"', 'control = "none"', "gates.control: expected one of paper, .*, received 'none'"),
        ('sampling = "example"', "", r"\[gates\]: .*, received missing keys \['sampling'\]"),
        ("[gates]", "[gates", "cannot be read"),
        ('name = "resnet"', 'name = "resnets"', "expected one of das_cnn, .*, received 'resnets'. Did you mean resnet"),
        ("width = 8", "hidden = 8", r"keys of name, weight_decay, depth, width.*, received unknown keys \['hidden'\]"),
        ("depth = 8", "depth = 9", "8, 14, 20, 26, ..., received 9"),
        ("[gates.controls.paper]", "[gates.controls.paper]\nspeed = 1", "unknown keys"),
        ("polarization =", "polarisation =", r"lagrangian\]: .*\['polarisation'\]. Did you mean polarization\?"),
        ('sampling = "example"', 'sampling = "pixel"', "sampling: expected one of example, batch, received"),
        ("dynamic = 0.5", "dynamic = 1.0", "dynamic: expected a share of the epochs above 0 and below 1, received 1.0"),
        ("growth = 0.2", "growths = 0.2", r"\[sizing\]: .*unknown keys \['growths'\] and missing keys \['growth'\]"),
        ("threshold = 1e-3", "threshold = 0.0", "threshold: expected a number above 0 .*, received 0.0"),
        ("weighted_l1 = 1e-4", "weighted_l1 = -1e-4", "weighted_l1: expected a number above 0 .*, received -0.0001"),
        ("linf1 = 0.004", "linf = 0.004", r"alphas\]: .*, received unknown keys \['linf'\]. Did you mean linf1"),
        ("[sizing.alphas]", "[sizing.learning_rates]\nauto = 1.0\n[sizing.alphas]", r"unknown keys \['auto'\]"),
        ('metric = "accuracy"', 'metric = "accuracy"\nstandardize_by = "image"', "one of channel, pixel, received 'image'"),
        ('metric = "accuracy"', 'metric = "accuracy"\nfolds = 1', "folds: expected a whole number of at least 2 .* 1"),
        ("drops = [10, 15]", "drops = [15, 10]", r"drops: expected epochs that rise, received \[15, 10\]"),
        ("learning_rate = 0.1", 'learning_rate = "0.1"', "learning_rate: expected a number above 0 .*, received '0.1'"),
        ("seeds =", "standardise_by = 'pixel'\nseeds =", r"\['standardise_by'\]. Did you mean standardize_by\?"),
    ],
)
def test_a_wrong_file_is_refused_by_key(tmp_path, old, new, message):
    with pytest.raises(SuiteError, match=message):
        load_suite(edited(tmp_path, (old, new)))


def test_too_few_examples(cache):
    with pytest.raises(SuiteError, match="digits has 900 training examples; asked for 901"):
        load_suite("digits").task(0, None, cache, examples=901)


def test_phases_of_a_task_are_those_of_a_budget(cache):
    assert set(load_suite("digits").task(0, None, cache).phases) == set(PHASES)


def test_every_default_strategy_is_registered():
    for name in SUITES:
        assert set(load_suite(name).strategies) <= set(STRATEGIES)


def test_settings_of_auto_sizing_move_no_other_run(tmp_path):
    digits = load_suite("digits")
    other = load_suite(edited(tmp_path, ("dynamic = 0.5", "dynamic = 0.6")))
    assert digits.definition == other.definition and digits.settings_of("l0_merge") == other.settings_of("l0_merge") == {}
    assert digits.settings_of("auto_sizing") == {"sizing": digits.sizing} != other.settings_of("auto_sizing")
    alone = load_suite("das_digits")
    assert alone.settings_of("auto_sizing") == {} and alone.definition["sizing"] == alone.sizing


def test_a_suite_takes_from_another_what_it_does_not_say(tmp_path):
    base, more = load_suite("cifar100"), load_suite("cifar100_900")
    assert more.budget() == Budget(300, 150, 150, 900) and base.published != more.published
    assert [row["strategy"] for row in more.published] == ["best_of_three", "one_model"]
    assert more.comparisons == base.comparisons == {"reference": "l0_merge", "test": "t"}
    assert more.definition["phases"]["teacher"] == {**base.definition["phases"]["teacher"], "drops": [150, 225]}
    step = base.definition["gates"]["controls"]["paper"]["step"]
    assert more.definition["gates"]["controls"]["paper"]["step"] * 150 == pytest.approx(step * 100, rel=1e-3)
    assert more.definition["architecture"] == base.definition["architecture"]
    path = tmp_path / "mine.toml"
    path.write_text('based_on = "cifar"')
    with pytest.raises(SuiteError, match="based_on: expected one of cifar100, .*received 'cifar'"):
        load_suite(path)
    path.write_text('based_on = "digits"\nspeed = 1')
    with pytest.raises(SuiteError, match=r"unknown keys \['speed'\]"):
        load_suite(path)
    path.write_text('based_on = "robots_voc"\n[architecture]\nname = "small_deeplab"')  # which has no backbone
    assert load_suite(path).definition["architecture"] == {"name": "small_deeplab"}


def test_cifar100_at_batch_512_has_four_times_the_rates_and_a_warm_up_of_a_twentieth():
    base, large, early = (load_suite(name) for name in ("cifar100", "cifar100_b512", "cifar100_b512_early"))
    for suite in (large, early):
        assert suite.definition["gates"] == {**base.definition["gates"], "learning_rate": 0.8}
        for name, phase in suite.definition["phases"].items():
            changed = {"batch_size": 512, "learning_rate": 0.4, "warmup": suite.definition["epochs"][name] / 20}
            changed |= {"drops": phase["drops"]} if suite is early else {}
            assert phase == {**base.definition["phases"][name], **changed}
    assert large.budget() == base.budget()


def test_teachers_of_halves_have_all_examples_between_them_and_as_many_steps(tmp_path, cache):
    path = tmp_path / "halves.toml"
    path.write_text('based_on = "digits"\nteacher_data = "halves"')
    task = load_suite(path).task(100, None, cache, examples=101)
    assert task.parents.labelled == 101
    seen, steps = [], []

    class Looking(Shelf):
        def fit(self, model, x, y, **how):
            seen.append({row.tobytes() for row in x})
            steps.append(len(x) * how["epochs"])
            super().fit(model, x, y, **how)

    with without_programs():
        for number in range(3):
            train_teacher(task, Budget(1, 1, 1, 1), 7, number, Looking())
    assert seen[0] | seen[1] == {row.tobytes() for row in task.data.x_train} and seen[0] == seen[2] != seen[1]
    assert steps == [102, 100, 102] and len(seen[0]) == 51
    # A big teacher is alone, and sees all.
    taught, budget, widen = big_teacher(task, Budget(1, 1, 1, 1))
    with without_programs():
        train_teacher(taught, budget, 7, 0, Looking(), widen)
    assert len(seen[3]) == len(task.data.x_train) and steps[3] == 2 * 101


def test_a_suite_says_what_a_strategy_lacks():
    with pytest.raises(SuiteError, match=r"suite das_mnist: .* tables \[phases\] and \[gates\], which l0_merge needs"):
        load_suite("das_mnist").settings_of("l0_merge")
    with pytest.raises(SuiteError, match=r"suite sine: expected a table \[sizing\], which static_a needs"):
        load_suite("sine").settings_of("static_a")


def test_auto_sizing_has_the_papers_numbers():
    sizing = load_suite("das_cifar10").sizing
    assert [sizing[name] for name in ("learning_rate", "batch_size", "dynamic", "growth", "min_growth", "threshold")] == [
        4e-4,
        128,
        0.5,
        0.2,
        20,
        1e-3,
    ]
    assert sizing["alphas"]["weighted_l1"] == 2e-5 and sizing["alphas"]["l21"] == 0.0085
    assert sizing["learning_rates"] | {"auto_sizing_linf1": 0, "auto_sizing_prune_at_end": 0} == {
        "static_a": 1.6e-3,
        "static_b": 8e-4,
        "static_adam_restart": 1.6e-3,
        "auto_sizing_l21": 1e-4,
        "auto_sizing_linf1": 0,
        "auto_sizing_prune_at_end": 0,
    }
    images = [name for name in SUITES if name.startswith("das_") and "puzzle" not in name]
    folds = {name.removeprefix("das_"): load_suite(f"{name}:paper").folds for name in images}
    assert folds == {"mnist": 7, "fashion_mnist": 7, "svhn": 4, "cifar10": 6, "cifar100": 6, "tiny_imagenet": 11} | {
        "ablation": 6,
        "digits": 3,
    }


def test_the_papers_cross_validation_is_another_protocol(cache):
    suite, paper = load_suite("das_digits"), load_suite("das_digits:paper")
    assert paper.name == "das_digits_paper" and "3 folds, chosen on test data" in paper.description
    assert paper.definition == suite.definition | {"folds": 3}
    task = paper.task(100, None, cache)
    assert task.identity["data"]["fold"] == [1, 3] and len(task.data.x_train) == 1198
    with pytest.raises(SuiteError, match="digits.toml: expected the key folds"):
        load_suite("digits:paper")


def test_a_task_of_auto_sizing(cache):
    task = load_suite("das_digits").task(100, None, cache)
    assert task.phases == {} and task.gates is None and task.sizing.net is None
    assert task.sizing.learning_rate_of("auto_sizing") == 4e-4 and len(task.sizing.code) == 64
    assert task.build(1).get_layer("conv_1").output.shape == (None, 16, 16, 100)
    assert load_suite("digits").task(100, None, cache).sizing.net(1).name == "das_cnn"
    puzzle = load_suite("das_puzzle15").task(100, None, cache, examples=50)
    assert puzzle.build(1).input_shape == (None, 256) and puzzle.metric == "mse"


@pytest.mark.parametrize("name", SUITES)
def test_what_a_suite_tunes_is_in_its_file(name):
    content = suites.suite_content(suites.FOLDER / f"{name}.toml")
    for varied in load_suite(name).tuning.values():
        for key in varied:
            *path, last = key.split(".")
            assert last in functools.reduce(lambda table, part: table[part], path, content)


def test_the_papers_tables_stand_beside_ours():
    published = {row["strategy"]: row for row in load_suite("das_cifar100").published}
    assert published["auto_sizing"]["mean"] == 0.4509 and published["static_b"]["n"] == 6
    ablation = load_suite("das_ablation")
    assert [row["strategy"] for row in ablation.published] == list(ablation.strategies[:7])
