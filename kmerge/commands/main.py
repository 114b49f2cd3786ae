"""The commands: what they are given, and in which order things are checked, made and written."""

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from kmerge.commands.card import Made, card, flags_of, recipe
from kmerge.commands.files import check_free, digest, import_modules, read_examples, read_model
from kmerge.commands.jobs import JOBS
from kmerge.commands.options import command_parser, defaults
from kmerge.commands.quality import quality
from kmerge.drawing import explain, plot
from kmerge.errors import InvalidArgumentError, KmergeError, told
from kmerge.files import write_whole
from kmerge.matching import compare


def main(arguments: Sequence[str] | None = None) -> int:
    """Carries out a command line; returns 0, or 2 where it was wrong, with the reason on the standard error stream."""
    parser = command_parser()
    options = parser.parse_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)
        try:
            _COMMANDS.get(options.command, _make)(options)
        except KmergeError as error:
            print(f"kmerge {options.command}: {error}", file=sys.stderr)
            return 2
    return 0


def _make(options: argparse.Namespace) -> None:
    out = check_free(options.out, ".keras", options.overwrite)
    beside = [out.with_suffix(".card.md"), out.with_suffix(".recipe.yaml")]
    for path in beside:
        check_free(path, path.suffix, options.overwrite)
    if any(path.exists() and path.resolve() == out.resolve() for path in options.models):
        raise InvalidArgumentError(f"Expected --out to be another file than the models, received {str(out)!r}.")
    if options.command == "merge" and len(options.models) < 2:
        raise InvalidArgumentError(f"Expected two models or more, received {len(options.models)}.")
    import_modules(getattr(options, "import"))
    files = {name: path for name in ("data", "test") if (path := getattr(options, name)) is not None}
    read = {name: read_examples(path) for name, path in files.items()}
    examples, test = read.get("data"), read.get("test")
    models = [read_model(path, options.trust_code) for path in options.models]
    before = [quality(model, test, options.batch_size) for model in models] if test else []
    model = JOBS[options.command](models, examples, options)
    hashes = {path: digest(path) for path in options.models}
    data = {name: (path, digest(path)) for name, path in files.items()}
    made = Made(options.command, hashes, data, _asked(options), models, model, before)
    if test:
        made.quality = quality(model, test, options.batch_size)
    texts = [card(made, out.name), recipe(made, out.parent)]
    write_whole(out, model.save)
    for path, text in zip(beside, texts, strict=True):
        write_whole(path, lambda draft, text=text: draft.write_text(text, encoding="utf-8"))
    print(f"{out}: {model.count_params():,} weights; {beside[0].name} and {beside[1].name} are beside it.")


def _explain(options: argparse.Namespace) -> None:
    if options.plot is not None:
        check_free(options.plot, ".svg", options.overwrite, "--plot")
    import_modules(getattr(options, "import"))
    model = read_model(options.models[0], options.trust_code)
    print(explain(model))
    if options.plot is not None:
        write_whole(options.plot, lambda draft: plot(model, draft))


def _compare(options: argparse.Namespace) -> None:
    examples = read_examples(options.data)
    import_modules(getattr(options, "import"))
    model, other = (read_model(path, options.trust_code) for path in options.models)
    print(compare(model, other, examples.for_model(), metric=options.metric))


def _run(options: argparse.Namespace) -> None:
    again, folder = _read_recipe(options.recipe), options.recipe.parent
    models = [_same_file(folder, entry) for entry in again["models"]]
    name = options.recipe.name.removesuffix(".yaml").removesuffix(".recipe")
    line = [again["command"], *models, "--out", str(options.out or folder / f"{name}.keras"), *flags_of(again["options"])]
    line += [text for key, entry in again["data"].items() for text in (f"--{key}", _same_file(folder, entry))]
    _make(command_parser().parse_args(line + flags_of({k: True for k in ("overwrite", "trust_code") if getattr(options, k)})))


def _read_recipe(path: Path) -> dict:
    import yaml  # only commands need it

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        sound = content["command"] in JOBS and isinstance(content["options"], dict)
        files = [*content["models"], *content["data"].values()]
        sound = sound and all(isinstance(entry[key], str) for entry in files for key in ("path", "sha256"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise InvalidArgumentError(f"Recipe {str(path)!r} cannot be read ({told(error)}).") from None
    if not sound:
        raise InvalidArgumentError(f"Expected {str(path)!r} to be a recipe that kmerge wrote, received another file.")
    return content


def _same_file(folder: Path, entry: dict[str, str]) -> str:
    path = folder / entry["path"]
    if not path.is_file() or digest(path) != entry["sha256"]:
        raise InvalidArgumentError(
            f"Expected {str(path)!r} to be the file that the recipe was made with, received "
            f"{'another one' if path.is_file() else 'none'}. Put it there, or give the command itself other files."
        )
    return str(path)


def _asked(options: argparse.Namespace) -> dict[str, object]:
    """The options that are not as by default and change what is made."""
    apart = {"command", "models", "data", "test", "out", "overwrite", "trust_code"}
    usual = defaults(options.command)
    return {k: v for k, v in vars(options).items() if k not in apart and v != usual[k]}


_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {"explain": _explain, "compare": _compare, "run": _run}
