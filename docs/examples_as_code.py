"""An extension of griffe, which reads the code for the reference: what stands under `Example:` is shown as code.

griffe knows the section by the name `Examples:`, and takes `Example:` for a note in Markdown.
"""

import re

import griffe


class ExamplesAsCode(griffe.Extension):
    """Gives the sections of all docstrings the name that griffe knows."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        """Called for each object that was read."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
