"""`plot`: every call is in the drawing, edges run down, boxes do not overlap, text is escaped."""

import itertools
import re
import xml.etree.ElementTree as ElementTree

import keras
import numpy as np
import pytest
from keras import layers

import kmerge
from kmerge.drawing.placement import place_boxes
from kmerge.graph import Graph
from tests.checks import parent
from tests.kmerge.drawing.test_explanations import residual
from tests.models import ZOO

SVG = "{http://www.w3.org/2000/svg}"


def hovers(drawing):
    """The hover texts of the boxes: name and class of each call, then shape and spaces."""
    texts = [element.text for element in ElementTree.fromstring(drawing).iter(f"{SVG}title")]
    return [text.split("\n") for text in texts if "\nshape " in text]


def words(drawing):
    return [element.text for element in ElementTree.fromstring(drawing).iter(f"{SVG}text")]


def calls_of(model):
    for call in Graph(model).calls:
        yield from calls_of(call.operation) if call.is_model else [call]


@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_call_and_input_has_a_box_and_every_space_a_legend(name):
    model = parent(ZOO[name], 1)
    drawing = kmerge.plot(model)
    boxes = hovers(drawing)
    assert len(boxes) == len(list(calls_of(model))) + len(model.inputs)
    assert {space.name for space in kmerge.channel_spaces(model).values()} <= set(words(drawing))


def test_a_box_tells_the_shape_and_the_spaces_of_its_output():
    told = {box[0]: box[1:] for box in hovers(kmerge.plot(residual()))}
    assert told["add (Add)"] == ["shape (None, 8, 8, 4)", "units of stem (4)"]
    assert told["image (input)"] == ["shape (None, 8, 8, 1)", "units of image (1)"]


def test_all_lies_within_the_picture_and_no_text_leaves_its_box():
    for name in ("lenet", "inception", "two_inputs_two_outputs"):
        root = ElementTree.fromstring(kmerge.plot(ZOO[name](1)))
        width, height = float(root.get("width")), float(root.get("height"))
        for element in root.iter(f"{SVG}rect"):
            if element.get("width") != "100%":
                x, y, w, h = (float(element.get(key)) for key in ("x", "y", "width", "height"))
                assert 0 <= x <= x + w <= width and 0 <= y <= y + h <= height


def test_names_are_escaped():
    x = keras.Input((3,), name="a<b>&c")
    model = keras.Model(x, layers.Dense(2, name='say "<hi>" & go')(x), name="<model>")
    drawing = kmerge.plot(model)
    assert {"a<b>&c", 'say "<hi>" & go'} <= set(words(drawing))
    assert "<hi>" not in drawing


def test_the_file_holds_what_is_returned_and_the_same_model_gives_the_same_drawing(tmp_path):
    drawing = kmerge.plot(residual(), tmp_path / "spaces.svg")
    assert (tmp_path / "spaces.svg").read_text(encoding="utf-8") == drawing == kmerge.plot(residual())
    assert drawing._repr_svg_() == drawing


def test_a_path_that_is_no_svg_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(kmerge.InvalidArgumentError, match=r"'\.svg'.*spaces\.png.*cairosvg"):
        kmerge.plot(residual(), tmp_path / "spaces.png")
    assert not list(tmp_path.iterdir())


def test_a_big_student_shows_each_unit_under_its_parent_and_the_first_filters():
    big = kmerge.merge(residual(), residual())
    for gate in kmerge.gates_of(big):
        gate.loc.assign(np.where(np.arange(gate.units) < gate.units / 2, 3.0, -3.0))
    drawing = kmerge.plot(big)
    assert sum("filters of stem" in text for text in words(drawing)) == 1
    root = ElementTree.fromstring(drawing)
    filters = {group.find(f"{SVG}title").text: group for group in root.iter(f"{SVG}g")}
    assert list(filters) == [f"stem, parent {p}, unit {u}" for p in (1, 2) for u in range(4)]
    shown = [group.get("opacity") for group in filters.values()]
    assert shown == ["1"] * 4 + ["0.2"] * 4, "all kept units are the first parent's"


def test_the_filters_are_those_of_the_parents():
    parents = [residual(), residual()]
    root = ElementTree.fromstring(kmerge.plot(kmerge.merge(*parents)))
    for group in root.iter(f"{SVG}g"):
        layer, parent, unit = re.match(r"(\w+), parent (\d), unit (\d)", group.find(f"{SVG}title").text).groups()
        kernel = keras.ops.convert_to_numpy(parents[int(parent) - 1].get_layer(layer).kernel)[..., 0, int(unit)]
        pixels = [rect.get("fill") for rect in group.iter(f"{SVG}rect")][: kernel.size]
        grey = np.array([int(pixel[1:3], 16) for pixel in pixels]).reshape(kernel.shape)
        np.testing.assert_allclose(grey / 127.5 - 1, kernel / np.abs(kernel).max(), atol=0.01)


def test_a_big_student_whose_first_layer_reads_no_image_shows_no_filters():
    def mlp():
        x = keras.Input((6,))
        return keras.Model(x, layers.Dense(2)(layers.Dense(5, activation="relu")(x)))

    assert not any("filters" in text for text in words(kmerge.plot(kmerge.merge(mlp(), mlp()))))


# Where boxes lie


def random_graph(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 30))
    sizes = [(float(rng.uniform(20, 200)), float(rng.uniform(10, 80))) for _ in range(count)]
    edges = {(int(rng.integers(0, b)), b) for b in range(1, count) for _ in range(rng.integers(0, 4))}
    return sizes, sorted(edges)


@pytest.mark.parametrize("seed", range(20))
def test_boxes_do_not_overlap_and_edges_run_down_from_box_to_box(seed):
    sizes, edges = random_graph(seed)
    placed = place_boxes(sizes, edges, (10.0, 30.0))
    corners = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(placed.boxes, sizes, strict=True)]
    ends = (placed.width + 1e-6, placed.height + 1e-6)
    assert all(-1e-6 <= a and -1e-6 <= b and c <= ends[0] and d <= ends[1] for a, b, c, d in corners)
    for (a, b, c, d), (e, f, g, h) in itertools.combinations(corners, 2):
        assert c <= e + 1e-6 or g <= a + 1e-6 or d <= f or h <= b
    for (start, end), route in zip(edges, placed.routes, strict=True):
        assert route[0] == pytest.approx(((corners[start][0] + corners[start][2]) / 2, corners[start][3]))
        assert route[-1] == pytest.approx(((corners[end][0] + corners[end][2]) / 2, corners[end][1]))
        assert all(a[1] <= b[1] for a, b in itertools.pairwise(route))


@pytest.mark.parametrize("seed", range(20))
def test_no_edge_runs_through_a_box(seed):
    sizes, edges = random_graph(seed)
    placed = place_boxes(sizes, edges, (10.0, 30.0))
    for route in placed.routes:
        for (x, top), (_, bottom) in list(itertools.pairwise(route))[2::2]:  # the straight stretches between two boxes
            for (left, above), (width, height) in zip(placed.boxes, sizes, strict=True):
                assert not (left < x < left + width and above < bottom and top < above + height)


def test_a_chain_is_straight_and_a_diamond_symmetric():
    chain = place_boxes([(40, 20)] * 4, [(0, 1), (1, 2), (2, 3)], (10, 30))
    assert [x for x, _ in chain.boxes] == pytest.approx([0] * 4)
    assert [y for _, y in chain.boxes] == [0, 50, 100, 150]
    diamond = place_boxes([(40, 20)] * 4, [(0, 1), (0, 2), (1, 3), (2, 3)], (10, 30))
    (top, _), (left, _), (right, _), (bottom, _) = diamond.boxes
    assert [top, bottom] == pytest.approx([(left + right) / 2] * 2)


def test_edges_that_need_not_cross_do_not():
    """Two chains side by side, listed so that the order given crosses at every row."""
    edges = [(0, 3), (1, 2), (2, 5), (3, 4)]
    placed = place_boxes([(40, 20)] * 6, edges, (10, 30))
    left = [placed.boxes[a][0] < placed.boxes[b][0] for a, b in ((0, 1), (3, 2), (4, 5))]
    assert len(set(left)) == 1


def test_a_deep_network_does_not_wander_off():
    """Blocks with a branch on one side only: what all paths run through stays in the middle."""
    edges = [(3 * block + a, 3 * block + b) for block in range(30) for a, b in ((0, 1), (1, 2), (2, 3), (0, 3))]
    placed = place_boxes([(40, 20)] * 91, edges, (10, 30))
    middle = [placed.boxes[i][0] for i in range(0, 91, 3)]
    assert middle == pytest.approx([middle[0]] * 31)
    assert placed.width < 3 * 40
