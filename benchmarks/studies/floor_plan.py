"""The floor plan of the code as a page with a picture, from its imports.

    python -m benchmarks.studies.floor_plan --out docs/development    # writes floor_plan.md and floor_plan.svg there

An arrow leads from a room to one that it imports. Where it also does so by way of another room, no arrow is drawn.
"""

import ast
from collections.abc import Mapping, Sequence
from html import escape

from benchmarks.checkout import ROOT
from benchmarks.command_line import DONE, command_parser
from benchmarks.studies.structure import ORDER, Structure, structures

PAGE, PICTURE = "floor_plan.md", "floor_plan.svg"

_INTRODUCTION = """\
# Floor plan

Written by `python -m benchmarks.studies.floor_plan --out docs/development`, from the imports. Three packages of a few rooms
each: a room is a file or a folder. A package imports only packages above it on this page, and a room only rooms below
it in the picture.
`python -m benchmarks.studies.structure` prints every arrow, and tests hold the order.

![The rooms of each package, and who imports whom](floor_plan.svg)

Arrows that follow from others are left out.
"""

# Pixels: the height of a floor, of a room and of a title; between rooms; of a character; and the width of all.
_FLOOR, _ROOM, _TITLE, _GAP, _CHARACTER, _WIDTH = 46, 22, 40, 60, 7.3, 680
_STYLE = (
    "text{font:12px sans-serif;text-anchor:middle;fill:#222}.title{font-size:16px;text-anchor:start}"
    "rect{fill:#eef3fb;stroke:#5b7fb5}path{fill:none;stroke:#9aa;stroke-width:1}"
)


def needed_arrows(arrows: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The arrows from which all others follow: those to rooms that no other imported room leads to."""
    reached: dict[str, set[str]] = {}

    def reach(room: str) -> set[str]:
        if room not in reached:
            reached[room] = arrows[room].union(*map(reach, arrows[room]))
        return reached[room]

    return {room: {to for to in below if not any(to in reach(other) for other in below)} for room, below in arrows.items()}


def _places(floors: Mapping[str, int], top: float) -> dict[str, tuple[float, float]]:
    """The center of each room, its floor's rooms side by side."""
    places, highest = {}, max(floors.values())
    for floor in range(highest, 0, -1):
        rooms = [room for room, number in floors.items() if number == floor]
        widths = [_width(room) for room in rooms]
        x = (_WIDTH - sum(widths) - _GAP * (len(rooms) - 1)) / 2
        for room, width in zip(rooms, widths, strict=True):
            places[room] = (x + width / 2, top + (highest - floor) * _FLOOR + _ROOM / 2)
            x += width + _GAP
    return places


def _width(room: str) -> float:
    return _CHARACTER * len(room) + 16


def _package(package: str, structure: Structure, top: float) -> tuple[list[str], float]:
    """The shapes of one package, and where it ends."""
    arrows = {room: below for room, below in structure.arrows.items() if below or room != "__init__"}
    floors = {room: floor for room, floor in structure.floors().items() if room in arrows}
    places = _places(floors, top + _TITLE)
    lines, boxes = [], []
    for room, below in needed_arrows(arrows).items():
        x, y = places[room]
        for other in sorted(below):
            to_x, to_y = places[other]
            bend = (to_y - y) / 2
            path = f"M{x:.0f} {y:.0f}C{x:.0f} {y + bend:.0f} {to_x:.0f} {to_y - bend:.0f} {to_x:.0f} {to_y - _ROOM / 2:.0f}"
            lines.append(f'<path marker-end="url(#tip)" d="{path}"/>')
        name = package if room == "__init__" else room
        width = _width(name)
        box = f'<rect rx="4" x="{x - width / 2:.0f}" y="{y - _ROOM / 2:.0f}" width="{width:.0f}" height="{_ROOM}"/>'
        text = f'<text x="{x:.0f}" y="{y + 4:.0f}">{name}</text>'
        boxes.append(f"<g><title>{escape(_about(package, room))}</title>{box}{text}</g>")
    title = f'<text class="title" x="10" y="{top + 20:.0f}">{package}</text>'
    return [title, *lines, *boxes], top + _TITLE + max(floors.values()) * _FLOOR


def picture() -> str:
    """The SVG of all packages, one below the other."""
    shapes, top = [], 0.0
    for package, structure in structures().items():
        drawn, top = _package(package, structure, top)
        shapes += drawn
    tip = '<marker id="tip" viewBox="0 0 6 6" refX="6" refY="3" markerWidth="6" markerHeight="6" orient="auto">'
    tip = f'<defs>{tip}<path d="M0 0L6 3L0 6z" style="fill:#9aa"/></marker></defs>'
    size = f'width="{_WIDTH}" height="{top:.0f}" viewBox="0 0 {_WIDTH} {top:.0f}"'
    background = '<rect width="100%" height="100%" style="fill:#fff;stroke:none"/>'
    head = [f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', f"<style>{_STYLE}</style>", tip, background]
    return "\n".join([*head, *shapes, "</svg>", ""])


def _about(package: str, room: str) -> str:
    """The first line of a room's docstring."""
    path = ROOT / package / room
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def page() -> str:
    """The page: the picture, and a table of rooms for each package, from the ground floor up."""
    text = _INTRODUCTION
    for package, rooms in ORDER.items():
        text += f"\n## {package}\n\n{_about(package, '__init__')}\n\n| room | what it is |\n|---|---|\n"
        for room in (room for room in rooms if room != "__init__"):
            path = f"{package}/{room}" + ("/" if (ROOT / package / room).is_dir() else ".py")
            text += f"| `{path}` | {_about(package, room)} |\n"
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes page and picture; returns the exit status."""
    out = command_parser(__file__, __doc__, "--out", out="docs/development").parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    for name, content in ((PAGE, page()), (PICTURE, picture())):
        (out / name).write_text(content, encoding="utf-8")
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
