"""Draws the filters of a big student's first layer by the parent that they come from.

Reference: Pašen & Boža, Merging of Neural Networks, Neural Processing Letters 2024, figure 2.
"""

from collections.abc import Iterator

import keras
import numpy as np

from kmerge.drawing.explanations import Explanation
from kmerge.drawing.svg import Canvas, colour, text_width
from kmerge.merging import Merged
from kmerge.rules import positions_of
from kmerge.surgery import Layout

_TILE, _SIZE, _ACROSS = 28.0, 11.0, 16


def first_filters(merged: Merged) -> Iterator[tuple[str, str, np.ndarray]]:
    """The filters of a big student that look right at an image of one or three channels.

    Args:
        merged: what the big student says of its merge.

    Yields:
        The path of the layer, the name of a gated space that it makes, and the filters as they are now, of shape
        `(parents, units, height, width, channels)`.
    """
    layout = None
    for record in merged.walked.records.values():
        path, layer = record.path, merged.walked.layers[record.path]
        kernel_axes = merged.walked.axes[path].get("kernel", ())
        if not (isinstance(layer, keras.layers.Conv2D) and layer.groups == 1 and layer.kernel.shape[2] in (1, 3)):
            continue
        read = merged.walked.space_of[kernel_axes[2].units]
        spaces = list(merged.walked.spaces.values())
        if not all(spaces[number].is_input for number in read):
            continue
        layout = layout or Layout(merged.walked, merged.plan)
        kernel = keras.ops.convert_to_numpy(merged.layers[path].kernel)
        for name in (name for name in merged.gates if path in merged.walked.spaces[name].owners):
            at = positions_of(layout.entries_of(name), layout.axes[path]["kernel"][3].units)
            filters = np.moveaxis(kernel[..., at], -1, 0)
            yield path, name, filters.reshape(merged.plan.sources, -1, *filters.shape[1:])


def draw_first_filters(
    canvas: Canvas, x: float, y: float, merged: Merged, explained: Explanation
) -> tuple[float, float]:
    """Draws a row of filters for each parent; those that the gates drop are faint.

    Args:
        canvas: is drawn on.
        x, y: where to start.
        merged: what the big student says of its merge.
        explained: what its gates keep.

    Returns:
        Where the drawing ends, on the right and below.
    """
    right = x
    for path, name, filters in first_filters(merged):
        title = f"filters of {path}, each by its own largest weight; faint: what the gates drop"
        canvas.text(x, y + _SIZE, title, _SIZE, fill="#1a1a1a", font_weight="bold")
        y += 2 * _SIZE
        right = max(right, x + text_width(title, _SIZE))
        for parent, (own, kept) in enumerate(zip(filters, explained[name].kept, strict=True)):
            canvas.text(x, y + _SIZE + 2, f"parent {parent + 1}", _SIZE, fill="#6b6b6b")
            y += _SIZE + 8
            for unit, (values, is_kept) in enumerate(zip(own, kept.tolist(), strict=True)):
                left, above = x + unit % _ACROSS * (_TILE + 6), y + unit // _ACROSS * (_TILE + 6)
                _draw_filter(canvas, left, above, values, is_kept, f"{path}, parent {parent + 1}, unit {unit}")
            y += (1 + (len(own) - 1) // _ACROSS) * (_TILE + 6)
        y += _SIZE
    return right, y


def _draw_filter(canvas: Canvas, x: float, y: float, values: np.ndarray, is_kept: bool, hover: str) -> None:
    """One filter as an image: zero is grey, the largest weight white and its negative black, channels are colours."""
    scale = np.max(np.abs(values)) or 1.0
    pixels = 0.5 + 0.5 * np.broadcast_to(values / scale, (*values.shape[:2], 3))
    height, width = _TILE / len(pixels), _TILE / len(pixels[0])
    group = canvas.group(hover, opacity=1.0 if is_kept else 0.25)
    for i, row in enumerate(pixels.tolist()):
        for j, pixel in enumerate(row):
            # A little larger than a pixel: otherwise the background shines through between them.
            group.add("rect", x=x + j * width, y=y + i * height, width=width + 0.3, height=height + 0.3,
                      fill=colour(*pixel))  # fmt: skip
    if is_kept:
        group.add("rect", x=x - 1, y=y - 1, width=_TILE + 2, height=_TILE + 2, fill="none", stroke="#1a1a1a",
                  stroke_width=1.5)  # fmt: skip
