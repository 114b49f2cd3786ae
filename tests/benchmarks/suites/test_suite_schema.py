"""Any wrong value at any place of a suite's file is refused by its place; nothing that is no suite hangs or fills memory."""

import copy
import dataclasses
import datetime
import inspect
import json
import os
import random

import pytest

from benchmarks.networks.architectures import ARCHITECTURES
from benchmarks.suites.checks import check_content
from benchmarks.suites.schema import CONTROLS, NETWORKS
from benchmarks.suites.suite import FOLDER, SuiteError, load_suite, suite_content
from kmerge import GatePressure

# One of each kind of table, list and data set.
KINDS = (
    "cifar10_vgg11",
    "das_ablation",
    "das_puzzle",
    "digits",
    "early_digits",
    "imagewoof_resnet18",
    "overlapping_digits",
    "robots_lenet_resnet101",
    "sine",
)
# Wrong wherever they stand, but for what `_is_right` names.
WRONG = [None, True, "\x00", "", "\ud800", "x" * 100_000, -1, -0.5, 1e308, 10**400, [], [[]], [None], {}, {"a": 1}]
WRONG += [datetime.date(1979, 5, 27), float("nan"), float("inf"), float("-inf"), (1 << 10**6), [[[[[[[[]]]]]]]]]
_MAY_BE_EMPTY = ("strategies", "primary", "published", "drops")  # lists
_MAY_LACK_KEYS = ("tuning", "comparisons", "early", "alphas", "learning_rates", "augmentation", *CONTROLS)  # tables


def _places(content, keys=()):
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield (*keys, key)
        if isinstance(value, dict | list):
            yield from _places(value, (*keys, key))


def _is_right(keys, old, value):
    if value is True or value in ([], {}):
        may_be = {bool: True, list: keys[-1] in _MAY_BE_EMPTY, dict: keys[-1] in _MAY_LACK_KEYS or keys[-2:-1] == ("tuning",)}
        return type(value) is type(old) and may_be[type(value)]
    # What [tuning] would try is held against its key by `benchmarks.tune`.
    return keys[0] == "tuning" and value in (-1, -0.5)


@pytest.mark.parametrize("name", KINDS)
def test_a_wrong_value_at_any_place_is_refused(name):
    content, draw = suite_content(FOLDER / f"{name}.toml"), random.Random(name)
    check_content("mine.toml", content)
    for keys in _places(content):
        for value in draw.sample(WRONG, 4):
            wrong = copy.deepcopy(content)
            table = wrong
            for key in keys[:-1]:
                table = table[key]
            if _is_right(keys, table[keys[-1]], value):
                continue
            table[keys[-1]] = value
            with pytest.raises(SuiteError) as refused:
                check_content("mine.toml", wrong)
            assert str(refused.value).startswith("mine.toml, ") and "received" in str(refused.value), (keys, value)
            assert len(str(refused.value)) < 3000


@pytest.mark.parametrize(
    "name, text",
    [
        ("deep.json", "[" * 100_000),
        ("deep.json", '{"a":' * 100_000),
        ("deep.toml", "a = " + "[" * 100_000),
        ("digits.json", '{"seeds": ' + "9" * 5_000 + "}"),
        ("digits.toml", "based_on = 'digits'\n[epochs]\nteacher = 0x" + "f" * 5_000),
        ("dotted.toml", "a" + ".a" * 40_000 + " = 1"),
        ("list.json", "[1]"),
        ("list.json", '{"based_on": ["digits"]}'),
        ("big.json", json.dumps({"description": "x" * 2_000_000})),
        ("key.toml", "based_on = 'digits'\n" + "x" * 2_900 + " = 1"),
        ("latin.toml", b"description = '\xe9'"),
        ("pipe.toml", None),
        ("...toml", "based_on = 'digits'"),  # its folder of results would be the parent of --out
        ("folder.toml/none.toml", "a = 1"),
    ],
)
def test_what_is_no_suite_is_refused_at_once(tmp_path, name, text):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if text is None:
        os.mkfifo(path)
    else:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    for file in (path, path.parent if path.parent != tmp_path else path):
        with pytest.raises(SuiteError, match="expected .*received") as refused:
            load_suite(file)
        assert len(str(refused.value)) < 1500


def test_the_schema_knows_the_options_of_networks_and_controls():
    # Strategies widen, data says how inputs are standardized, and a second output has no place in a suite.
    not_in_suites = ("widen", "standardize", "auxiliary")
    for name, build in ARCHITECTURES.items():
        known = [p.name for p in inspect.signature(build).parameters.values() if p.kind is p.KEYWORD_ONLY]
        assert sorted(NETWORKS[name]) == sorted(key for key in known if key not in not_in_suites)
    assert NETWORKS.keys() == ARCHITECTURES.keys()
    for name, settings in CONTROLS.items():
        assert list(settings) == [field.name for field in dataclasses.fields(GatePressure(name).control)]
        GatePressure(name, **{key: kind.example for key, kind in settings.items()})
