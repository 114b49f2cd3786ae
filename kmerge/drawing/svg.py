"""Shapes and text, written as one SVG document."""

import xml.etree.ElementTree as ElementTree

FONT = "DejaVu Sans Mono, Menlo, Consolas, monospace"
# The widest of these fonts has characters of .602 times its size.
_CHARACTER = 0.61


def text_width(text: str, size: float) -> float:
    """The width of a text in pixels, in a font of this size."""
    return len(text) * _CHARACTER * size


def colour(red: float, green: float, blue: float) -> str:
    """The name of a colour, whose parts are numbers from 0 to 1."""
    return "#" + "".join(f"{round(255 * part):02x}" for part in (red, green, blue))


class Canvas:
    """A list of shapes. What is added later lies above."""

    def __init__(self):
        self._root = ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "font-family": FONT})

    def group(self, hover: str = "", **attributes: object) -> "Canvas":
        """A canvas on this one, whose attributes hold for all that it has. Arguments are those of `add`."""
        inner = Canvas()
        inner._root = self.add("g", hover, **attributes)
        return inner

    def add(self, kind: str, hover: str = "", **attributes: object) -> ElementTree.Element:
        """Adds an element.

        Args:
            kind: its tag.
            hover: what viewers show while the pointer is on it.
            **attributes: underscores stand for hyphens; numbers are rounded to a tenth.

        Returns:
            The element.
        """
        element = ElementTree.SubElement(self._root, kind, _written(attributes))
        if hover:
            ElementTree.SubElement(element, "title").text = hover
        return element

    def text(self, x: float, y: float, text: str, size: float, **attributes: object) -> None:
        """Adds a line of text whose baseline starts at x and y; it is escaped."""
        self.add("text", x=x, y=y, font_size=size, **attributes).text = text

    def document(self, width: float, height: float) -> str:
        """The SVG document, of this size in pixels, on white."""
        size = {"width": width, "height": height, "viewBox": f"0 0 {_number(width)} {_number(height)}"}
        root = ElementTree.Element("svg", self._root.attrib | _written(size))
        ElementTree.SubElement(root, "rect", {"width": "100%", "height": "100%", "fill": "white"})
        root.extend(self._root)
        ElementTree.indent(root, space="")
        return ElementTree.tostring(root, encoding="unicode") + "\n"


def _written(attributes: dict) -> dict[str, str]:
    return {
        name.replace("_", "-"): value if isinstance(value, str) else _number(value)
        for name, value in attributes.items()
    }


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
