"""The table of all layers and operations of Keras: which rule of kmerge follows each, or why it runs as it is.

    python -m benchmarks.studies.rules                        # prints the table
    python -m benchmarks.studies.rules --out docs/concepts    # writes layers_and_operations.md there

It is read from the code: from what `keras.layers` and `keras.ops` offer, and from the rules of kmerge.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence

from benchmarks.command_line import DONE, command_parser

PAGE = "layers_and_operations.md"

_INTRODUCTION = """\
# Layers and operations

Written by `python -m benchmarks.studies.rules --out docs/concepts`, from the code: {followed} of {count} layers and functions
are followed. What is followed is cut, permuted, grown and joined with the channels around it, as far as a call allows it: a
softmax over time is followed, one over channels is not. What runs *as it is* holds the channels that it reads and makes
fixed; `concatenate` runs one for each model, and in front of the first weight it costs nothing. A rule may be written for
any of them: [how](../guides/write_a_rule.md).
"""


def offers() -> Iterator[tuple[str, type | Callable]]:
    """The layer classes and the operations that Keras offers, by name."""
    import keras

    modules = {"layers": keras.layers, "ops": keras.ops, "ops.image": keras.ops.image}
    for prefix, module in modules.items():
        wanted = inspect.isclass if prefix == "layers" else inspect.isfunction
        for name, value in sorted(vars(module).items()):
            if wanted(value) and not name.startswith("_"):
                yield f"{prefix}.{name}", value


def rows() -> list[tuple[str, str, str]]:
    """For each layer and function its name, the rule's name or "as it is", and the reason; empty where there is neither."""
    from kmerge.rules import Rule, rule_or_reason

    found = []
    for name, thing in offers():
        told = rule_or_reason(thing)
        if isinstance(told, Rule):
            found.append((name, type(told).__name__, ""))
        else:
            found.append((name, "as it is" if told else "", told or ""))
    return found


def page() -> str:
    """The whole page."""
    table = rows()
    followed = sum(rule not in ("", "as it is") for _, rule, _ in table)
    lines = ["| `keras.` | rule | why it runs as it is |", "|---|---|---|"]
    lines += [f"| `{name}` | {rule} | {why} |" for name, rule, why in table]
    return _INTRODUCTION.format(followed=followed, count=len(table)) + "\n" + "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints or writes the page; returns the exit status."""
    parser = command_parser(__file__, __doc__, "--out", out=None)
    out = parser.parse_args(arguments).out
    if out is None:
        print(page())
    else:
        out.mkdir(parents=True, exist_ok=True)
        (out / PAGE).write_text(page())
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
