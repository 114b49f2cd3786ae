"""Figures as objects: what is drawn where, and that a strategy looks the same in all of them."""

import numpy as np
import pytest

from benchmarks.reports import figures, learning_curves, network_drawings
from benchmarks.reports.style import COLOURS, SHARED, STYLE, in_style, look_of, new_figure
from benchmarks.strategies.registry import STRATEGIES


def _rows(strategy, values, metric="mse", **more):
    row = {"strategy": strategy, "metric": metric, "status": "done", "suite": "s", "parameters": 9}
    return [row | {"seed": i, "run": f"{strategy}{i}", "test_last": value, **more} for i, value in enumerate(values)]


def _epochs(**phases):
    return [
        {"phase": phase, "epoch": i, "val_metric": value} for phase, of_it in phases.items() for i, value in enumerate(of_it)
    ]


def test_no_two_strategies_look_the_same():
    looks = [look_of(name) for name in STRATEGIES]
    assert len({(look.colour, look.marker) for look in looks}) == len(looks)
    assert len({look_of(name).colour for name in list(STRATEGIES)[:1] + ["one_model", "restart", "magnitude_merge"]}) == 4
    assert look_of("somebody_else's") == look_of("somebody_else's")


def test_the_style_file_has_the_colours_of_the_looks():
    import matplotlib

    with matplotlib.rc_context(fname=STYLE):
        cycle = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    assert [f"#{colour.lstrip('#')}" for colour in cycle] == list(COLOURS)

    @in_style
    def draw():
        return matplotlib.rcParams["pdf.fonttype"]

    assert draw() == 42 != matplotlib.rcParams["pdf.fonttype"]


def test_costs_are_drawn_against_exact_results_with_their_front():
    rows = [*_rows("a", (1e-6, 3e-6)), *_rows("b", (4e-6,), parameters=7), *_rows("c", (5e-6,), parameters=8)]
    figure = new_figure()
    assert figures._against("parameters", figure, rows)
    points = [line for line in figure.axes[0].lines if line.get_marker() not in ("None", "_", "|")]
    assert [line.get_ydata()[0] for line in points] == pytest.approx([2e-6, 4e-6, 5e-6])
    assert [line.get_color() for line in points] == [look_of(name).colour for name in "abc"]
    (front,) = [line for line in figure.axes[0].lines if line.get_label().startswith("front")]
    assert list(front.get_xdata()) == [7, 9] and front.get_ydata() == pytest.approx([4e-6, 2e-6])
    points = {"a": (1.0, 0.9), "b": (1.0, 0.8), "c": (2.0, 0.9), "d": (3.0, 0.95)}
    assert figures.front_of(points, higher_is_better=True) == ["a", "d"]
    assert figures.front_of(points, higher_is_better=False) == ["b"]


def test_phases_that_strategies_share_are_drawn_once_in_grey():
    epochs = {}
    for seed in range(3):
        teacher = [0.5 + 0.01 * seed, 0.6]
        epochs[f"magnitude_merge{seed}"] = _epochs(teacher_0=teacher, finetune=[0.7, 0.8 + 0.01 * seed, 0.9])
        epochs[f"restart{seed}"] = _epochs(teacher_0=teacher, finetune=[0.75, 0.85, 0.95])
        epochs[f"one_model{seed}"] = _epochs(single=[0.3, 0.4, 0.5, 0.6, 0.7, 0.8][: 6 - seed])  # one run is shorter
    rows = [row for name in ("magnitude_merge", "restart", "one_model") for row in _rows(name, (0.1, 0.2, 0.3), "accuracy")]
    figure = new_figure()
    assert learning_curves.draw_curves(epochs, figure, rows)
    whole, end, bars = figure.axes
    drawn = {(line.get_color(), tuple(line.get_xdata())) for line in whole.lines}
    assert drawn == {
        (SHARED, (1, 2)),
        (look_of("magnitude_merge").colour, (3, 4, 5)),
        (look_of("restart").colour, (3, 4, 5)),
        (look_of("one_model").colour, (1, 2, 3, 4)),
    }
    assert all(list(line.get_xdata()) == [-2, -1, 0] for line in end.lines) and len(end.lines) == 3
    assert end.lines[0].get_ydata() == pytest.approx([70, 81, 90])
    assert end.lines[2].get_ydata() == pytest.approx([50, 60, 70]) and end.get_title() == "the last 3 epochs"
    low, high = end.get_ylim()
    assert low < 50 < 95 < high and whole.get_yscale() == "linear"
    assert [text.get_text() for text in bars.texts] == ["teacher 1", "fine-tuning", "teacher 1", "fine-tuning", "training"]
    assert [label.get_text() for label in bars.get_yticklabels()][1] == "Restart (n = 3)"


def test_a_phase_of_one_epoch_is_seen_though_it_is_no_line():
    epochs = {f"restart{seed}": _epochs(teacher_0=[0.5, 0.6], finetune=[0.7]) for seed in range(2)}
    figure = new_figure()
    assert learning_curves.draw_curves(epochs, figure, _rows("restart", (0.1, 0.2), "accuracy"))
    assert [line.get_marker() for line in figure.axes[0].lines] == ["None", "."]


def test_an_interval_of_each_epoch_holds_its_mean():
    values = np.random.default_rng(0).normal(size=(10, 4)) + np.arange(4)
    low, high = learning_curves.mean_intervals(values)
    assert (low < values.mean(axis=0)).all() and (values.mean(axis=0) < high).all() and (high - low < 2).all()


def test_distributions_are_drawn_where_results_fall_in_two_heaps():
    rng = np.random.default_rng(0)
    heaps = [*rng.normal(0.05, 0.005, 14), *rng.normal(0.2, 0.005, 6)]
    figure = new_figure()
    assert figures._distributions(figure, _rows("one_model", heaps) + _rows("restart", rng.normal(0.1, 0.01, 20)))
    first = figure.axes[0].lines[0]
    at = np.searchsorted(first.get_xdata(), 0.1) - 1
    assert first.get_ydata()[at] == pytest.approx(0.7)
    assert not figures._distributions(new_figure(), _rows("restart", rng.normal(0.1, 0.01, 20)))
    assert not figures._distributions(new_figure(), _rows("restart", heaps[-8:]))


def test_learned_functions_lie_over_the_one_to_learn():
    x = np.linspace(0, 1, 50)
    rows = [row | {"suite": "sine"} for name in ("l0_merge", "one_model") for row in _rows(name, (0.05, 0.07, 0.2))]
    functions = {row["run"]: (x, x + row["seed"]) for row in rows} | {"one_model2": None}
    figure = new_figure()
    assert network_drawings.draw_functions(functions, figure, rows)
    first, second = figure.axes
    assert len(first.lines) == 3 + 1 and len(second.lines) == 2 + 1
    assert first.lines[-1].get_ydata() == pytest.approx(np.sin(10 * np.pi * x))
    assert second.get_title() == "One model: median mse 0.0600, n = 2"
    assert {line.get_color() for line in first.lines[:-1]} == {look_of("l0_merge").colour}
