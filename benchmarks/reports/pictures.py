"""What networks say of the pixels of some images, as a figure: each image, its labels, and those before and after.

*Before* is the network of a run's first phase, a teacher or what was pruned; *after* is the one that the run ends with.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from baselines.protocol.metrics import VOID
from benchmarks.records.results import Row
from benchmarks.reports.style import name_of, plain
from benchmarks.reports.summaries import grouped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of a file that a run left: images, their longest side, and the classes; and of the figure that a page takes.
_MOST_IMAGES, _MOST_SIDE, _MOST_CLASSES, _MOST_BYTES = 4, 256, 100, 2_000_000
_PARTS = ("truth", "before", "after")
# Of the classes beyond the nine colours of matplotlib's first palette that are not grey, as background and void are.
_MORE_COLOURS = (
    "#ff00ff", "#ffbb78", "#98df8a", "#ffff00", "#00ffff", "#000080", "#800000", "#005933", "#c49c94", "#ffff99", "#aec7e8",
)  # fmt: skip
# Inches of a picture in the figure.
_SIDE = 0.95

Pictures = tuple[list[str], np.ndarray, dict[str, np.ndarray]]


def pictures_from(content: Any) -> Pictures | None:
    """Classes, images `(n, height, width, 3)` and labels by part, of a file that a run left; None where it holds others."""
    classes, images = content["classes"], np.asarray(content["images"], "uint8")
    labels = {part: np.asarray(content[part], "int64") for part in _PARTS if part in content}
    is_right = images.ndim == 4 and images.shape[3] == 3 and {"truth", "after"} <= labels.keys()
    is_right = is_right and 0 < len(images) <= _MOST_IMAGES and images.size and max(images.shape[1:3]) <= _MOST_SIDE
    is_right = is_right and isinstance(classes, list) and 0 < len(classes) <= _MOST_CLASSES
    if not is_right or not all(isinstance(name, str) and len(name) <= 100 and name.isprintable() for name in classes):
        return None
    for values in labels.values():
        if values.shape != images.shape[:3] or not ((values >= 0) & (values < len(classes)) | (values == VOID)).all():
            return None
    return classes, images, labels


def draw_pictures(found: Mapping[str, Pictures], figure: "Figure", rows: Sequence[Row]) -> bool:
    """A line of pictures for each strategy, of its first seed; see the module.

    Args:
        found: by run, what `pictures_from` read.
        figure: is drawn on.
        rows: of the runs.
    """
    from matplotlib.patches import Patch

    lines = {name: found[min(group, key=lambda row: row["seed"])["run"]] for name, group in grouped(rows, "strategy").items()}
    heads = ("image", *_PARTS)
    most = max(len(images) for _, images, _ in lines.values())
    figure.set_size_inches(_SIDE * len(heads) * most + 1.2, (_SIDE + 0.1) * len(lines) + 0.8)
    panels = figure.subplots(len(lines), len(heads) * most, squeeze=False)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[], frame_on=False)
    for panel, (name, (classes, images, labels)) in zip(panels, lines.items(), strict=True):
        colours = colours_of(len(classes))
        panel[0].set_ylabel(name_of(name), rotation=0, ha="right", va="center", fontsize="x-small")
        for number, image in enumerate(images):
            for place, part in enumerate(heads):
                axes = panel[number * len(heads) + place]
                axes.set_box_aspect(image.shape[0] / image.shape[1])
                if part == "image" or part in labels:
                    axes.imshow(image if part == "image" else colours[labels[part][number]], interpolation="nearest")
    for axes, part in zip(panels[0], heads * most, strict=True):
        axes.set_title(part, fontsize="x-small")
    classes = max((classes for classes, _, _ in lines.values()), key=len)
    colours = colours_of(len(classes)) / 255
    key = [Patch(color=colours[i], label=plain(name)) for i, name in enumerate(classes)]
    key.append(Patch(color=colours[VOID], label="void"))
    figure.legend(handles=key, loc="outside lower center", ncols=6, fontsize="x-small")
    return True


def colours_of(classes: int) -> np.ndarray:
    """The colour of each label: the first class, the background as a rule, is grey, and void black.

    Args:
        classes: how many there are; of more than 21, some have the same.

    Returns:
        Red, green and blue, uint8 `(256, 3)`.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    bright = [colour for colour in colormaps["tab10"].colors if len(set(colour)) > 1] + [*map(to_rgb, _MORE_COLOURS)]
    colours = np.zeros((VOID + 1, 3), "uint8")
    for label in range(1, classes):
        colours[label] = [round(255 * part) for part in bright[(label - 1) % len(bright)]]
    colours[0] = 217
    return colours


def picture_address(folder: Path, figures: Iterable[str]) -> str | None:
    """The figure of pictures as an address that holds all of it, for a page that needs nothing else.

    Args:
        folder: of the suite.
        figures: paths of the figures that were drawn, relative to it.

    Returns:
        The address; None where no pictures were drawn, or the figure is too large.
    """
    path = next((path for path in figures if Path(path).name.startswith("pictures-")), None)
    content = b"" if path is None else (folder / path).read_bytes()
    return f"data:image/png;base64,{base64.b64encode(content).decode()}" if 0 < len(content) <= _MOST_BYTES else None
