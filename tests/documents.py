"""The code in README and guides: how to find its blocks, and how to run them."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import keras


@dataclass(frozen=True)
class Block:
    """A block of a Markdown file.

    Args:
        document: the file.
        line: the number of its first line there.
        language: what stands behind its opening fence.
        text: its content.
    """

    document: Path
    line: int
    language: str
    text: str

    def run(self, names: dict) -> None:
        """Runs a Python block. A traceback shows the lines of the file."""
        exec(compile("\n" * (self.line - 1) + self.text, self.document, "exec"), names)


def blocks(document: Path, *languages: str) -> list[Block]:
    """The blocks of a file in some languages, in their order."""
    content = document.read_text()
    matches = re.finditer(r"^```(\w+)\n(.*?)^```", content, re.MULTILINE | re.DOTALL)
    return [
        Block(document, 1 + content.count("\n", 0, match.start(2)), match[1], match[2])
        for match in matches
        if match[1] in languages
    ]


def headings(document: Path) -> set[str]:
    """The anchors of a file's headings: in lower case, without punctuation, with hyphens for spaces."""
    content = re.sub(r"^```.*?^```", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", content, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


_ARGUMENTS = inspect.signature(keras.applications.MobileNetV2)


def short_mobilenet(input_shape: tuple[int, ...], **options) -> keras.Model:
    """A network of the kinds of layers that `keras.applications.MobileNetV2` has many of, for code that asks for that one."""
    _ARGUMENTS.bind(input_shape=input_shape, **options)
    layers = keras.layers

    def normalized(x, name):
        return layers.BatchNormalization(name=f"{name}_BN")(x)

    image = keras.Input(input_shape)
    x = layers.Conv2D(32, 3, 2, padding="same", use_bias=False, name="Conv1")(image)
    x = first = layers.ReLU(6.0, name="Conv1_relu")(normalized(x, "Conv1"))
    x = layers.Conv2D(64, 1, use_bias=False, name="expand")(x)
    x = layers.ReLU(6.0, name="expand_relu")(normalized(x, "expand"))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.ReLU(6.0, name="depthwise_relu")(normalized(x, "depthwise"))
    x = normalized(layers.Conv2D(32, 1, use_bias=False, name="project")(x), "project")
    x = layers.Add(name="add")([first, x])
    return keras.Model(image, layers.GlobalAveragePooling2D(name="pool")(x), name="short_mobilenet")


def run_guide(document: Path, printed: Callable[[], str], changes: Mapping[str, str] | None = None) -> dict:
    """Runs the Python blocks of a file one after the other, each with the names of those before.

    A block of plain text behind one of Python is what that one prints.

    Args:
        document: the file.
        printed: returns what was printed since it was last called.
        changes: texts of the file to replace before it runs, such as sizes by smaller ones; each must be there.

    Returns:
        The names that the blocks defined.
    """
    content = document.read_text()
    missing = [text for text in changes or {} if content.count(text) != 1]
    assert not missing, f"{document.name} has not exactly one of each: {missing}"
    names: dict = {"__name__": "guide"}
    for block in blocks(document, "python", "text"):
        if block.language == "python":
            text = block.text
            for old, new in (changes or {}).items():
                text = text.replace(old, new)
            printed()
            Block(document, block.line, "python", text).run(names)
            output = printed()
        else:
            assert output == block.text, f"{document.name}, line {block.line}: the code before it prints\n{output}"
    return names
