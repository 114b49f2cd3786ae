"""The rules of the house that a machine can check: who imports whom, what is public, and how it is documented.

Every check reads the tree as it is, so a new file is covered without a line here. A new room of a package needs its place
in `ORDER` of benchmarks/studies/structure.py.
"""

import ast
import inspect
import re
import sys

import pytest

import kmerge
from benchmarks.checkout import ROOT
from benchmarks.studies.structure import ORDER, imported_files, imports_of, read_files, room_of, structures

PACKAGES = tuple(ORDER)

KMERGE_MAY_IMPORT = {"numpy", "keras"}
KMERGE_MAY_NEED = {"kmerge/commands": "yaml", "kmerge/matching": "scipy"}  # inside of functions
# The one backend-specific folder. It imports the backend that is in use, not at the top level of a file.
BACKEND_FOLDER, BACKENDS = "kmerge/training", {"tensorflow", "jax"}
# The one file that knows Keras' private names.
GRAPH_FILE = "kmerge/graph.py"

FILE_LIMIT, FUNCTION_LIMIT = 400, 60
DUMPING_GROUNDS = {"utils", "util", "helpers", "common", "misc"}


SOURCES = read_files(ROOT, *PACKAGES)
TESTS = read_files(ROOT, "tests")
TREES = SOURCES | TESTS


def where(path, node=None):
    return str(path.relative_to(ROOT)) + (f":{node.lineno}" if node else "")


def is_private(name):
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def functions_of(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


# Layers of the house


def test_rooms_import_only_rooms_before_them():
    for package, structure in structures().items():
        order, arrows = ORDER[package], structure.arrows
        assert set(arrows) == set(order), "each room has its place in ORDER of benchmarks/studies/structure.py"
        wrong = [
            f"{room} imports {other}"
            for room, others in arrows.items()
            for other in others
            if order.index(other) >= order.index(room)
        ]
        assert not wrong, (package, wrong)


def test_one_folder_of_kmerge_imports_from_the_face_of_another():
    wrong = [
        f"{where(path, node)} imports {module}"
        for path in SOURCES
        for module, _, node in imports_of(path, TREES[path], ROOT)
        if module.startswith("kmerge.") and module.count(".") > 1 and room_of(path, ROOT) != tuple(module.split(".")[:2])
    ]
    assert not wrong, wrong


def faces():
    """Yields (path, tree) of the `__init__` of each package and folder."""
    return ((path, tree) for path, tree in SOURCES.items() if path.stem == "__init__")


def test_faces_of_kmerge_only_name_things_and_the_others_hold_a_docstring_alone():
    for path, tree in faces():
        if room_of(path, ROOT)[0] != "kmerge":
            assert len(tree.body) == 1 and ast.get_docstring(tree), where(path)
            continue
        *body, names = tree.body[1:]
        assert all(isinstance(node, ast.ImportFrom) for node in body), where(path)
        imported = [alias.name for node in body for alias in node.names]
        assert ast.unparse(names.targets[0]) == "__all__" and ast.literal_eval(names.value) == sorted(imported), where(path)


def test_every_name_in_a_face_is_used_outside_of_its_folder():
    used = {}
    for path in SOURCES:
        for module, name, _ in imports_of(path, TREES[path], ROOT):
            used.setdefault(module, set()).add(name)
    for path, tree in faces():
        package, *room = path.relative_to(ROOT).parent.parts
        if package == "kmerge" and room:
            names = set(ast.literal_eval(tree.body[-1].value))
            unused = names - used[f"kmerge.{room[0]}"] - set(kmerge.__all__)
            assert not unused, f"{where(path)}: {unused}"


def test_no_module_bears_the_name_of_a_public_function():
    functions = {name for name in kmerge.__all__ if inspect.isfunction(getattr(kmerge, name))}
    assert not [where(path) for path in read_files(ROOT, "kmerge") if path.stem in functions]


def test_packages_import_only_packages_before_them():
    wrong = []
    for path in SOURCES:
        for file, node in imported_files(path, SOURCES, ROOT):
            assert file, f"{where(path, node)} imports what is no file here"
            if PACKAGES.index(room_of(file, ROOT)[0]) > PACKAGES.index(room_of(path, ROOT)[0]):
                wrong.append(f"{where(path, node)} imports {where(file)}")
        wrong += [f"{where(path, n)} imports {m}" for m, _, n in imports_of(path, TREES[path], ROOT) if m.startswith("tests")]
    assert not wrong, wrong


def test_no_file_imports_itself_by_way_of_others():
    graph = {path: {file for file, _ in imported_files(path, SOURCES, ROOT)} for path in SOURCES}
    # Taking away the files that import nothing of what is left, again and again, leaves exactly the circles.
    while leaves := [path for path, imported in graph.items() if not imported & graph.keys()]:
        for path in leaves:
            del graph[path]
    assert not graph, [where(path) for path in graph]


def test_kmerge_imports_only_numpy_keras_and_the_standard_library():
    wrong = []
    for path in read_files(ROOT, "kmerge"):
        at_the_top = set(map(id, TREES[path].body))
        for module, _, node in imports_of(path, TREES[path], ROOT):
            package = module.partition(".")[0]
            lazy_backend = where(path.parent) == BACKEND_FOLDER and package in BACKENDS and id(node) not in at_the_top
            lazy = KMERGE_MAY_NEED.get(where(path.parent)) == package and id(node) not in at_the_top
            if not (package in KMERGE_MAY_IMPORT | {"kmerge"} | sys.stdlib_module_names or lazy_backend or lazy):
                wrong.append(f"{where(path, node)} imports {module}")
    assert not wrong, wrong


# Privacy


def own_private_names(tree):
    """The private names that this file itself gives to its classes and their instances."""
    for definition in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        for node in ast.walk(definition):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node.name
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}:
                    yield node.attr


def private_names_used(path):
    """Yields (name, node): attributes, also through getattr, of anything but a module of the standard library."""
    standard = {module for module, _, _ in imports_of(path, TREES[path], ROOT)} & sys.stdlib_module_names
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Attribute):
            if not (isinstance(node.value, ast.Name) and node.value.id in standard):
                yield node.attr, node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if called in {"getattr", "hasattr", "setattr", "delattr", "attrgetter"}:
                yield from (
                    (argument.value, node)
                    for argument in node.args
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
                )


def test_only_the_graph_file_knows_private_names_of_others():
    documented = {"_replace", "_asdict", "_fields", "_make"}  # of namedtuple: private by their look only
    wrong = []
    for path in SOURCES:
        if where(path) != GRAPH_FILE:
            allowed = documented | set(own_private_names(TREES[path]))
            wrong += [
                f"{where(path, node)} uses {name}"
                for name, node in private_names_used(path)
                if is_private(name) and name not in allowed
            ]
            wrong += [
                f"{where(path, node)} imports {name or module} from {module}"
                for module, name, node in imports_of(path, TREES[path], ROOT)
                if module.startswith("keras.src") or any(map(is_private, module.split("."))) or is_private(name or "")
            ]
    assert not wrong, wrong


# Size and names


def lines_of(function):
    """The length of a function without its docstring, which may be as long as it is useful."""
    doc = function.body[0] if ast.get_docstring(function) else None
    return function.end_lineno - function.lineno + 1 - (doc.end_lineno - doc.lineno + 1 if doc else 0)


def test_files_and_functions_are_short():
    long_files = [f"{where(p)}: {n} lines" for p in TREES if (n := len(p.read_text().splitlines())) >= FILE_LIMIT]
    long_functions = [
        f"{where(path, node)}: {node.name} has {length} lines"
        for path, tree in TREES.items()
        for node in functions_of(tree)
        if (length := lines_of(node)) > FUNCTION_LIMIT
    ]
    assert not long_files + long_functions, long_files + long_functions


def test_no_file_is_a_dumping_ground():
    assert not [where(path) for path in TREES if path.stem in DUMPING_GROUNDS]


def test_every_source_file_says_what_it_is():
    silent = [where(path) for path in SOURCES if not ast.get_docstring(TREES[path]) and path.read_text().strip()]
    assert not silent, silent


def test_every_test_asserts_something():
    idle = []
    for path in TESTS:
        asserting = {"raises", "warns"}

        def asserts(node, names=asserting):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                return name in names or name.startswith(("assert_", "check_"))
            return isinstance(node, ast.Assert)

        # A function that asserts makes those assert that call it, in this file.
        functions = functions_of(TREES[path])
        while new := {f.name for f in functions if any(map(asserts, ast.walk(f)))} - asserting:
            asserting |= new
        idle += [
            f"{where(path, f)}: {f.name}" for f in functions if f.name.startswith("test_") and f.name not in asserting
        ]
    assert not idle, idle


# Words

# What slips in, and what an engineer writes.
WORDS = {
    r"in the place of": "instead of",
    r"of (?:now|then)\b(?!-)": "current, former",
    r"\b(?:tells?|told) of\b": "describes, reports",
    r"\brows? tells?\b": "report",
    r"\bin turns\b": "in turn",
}


def test_texts_are_free_of_words_that_no_native_writes():
    texts = [*TREES, *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("baselines/*.md")]
    texts += [*ROOT.glob("benchmarks/suites/*.toml"), *ROOT.glob("benchmarks/reports/web/*")]
    texts.remove(ROOT / "tests" / "test_house.py")
    any_word = re.compile("|".join(WORDS))
    found = [
        f"{where(path)}: {match[0]!r}; write: {better}"
        for path in texts
        if any_word.search(text := path.read_text("utf-8").lower())
        for word, better in WORDS.items()
        for match in re.finditer(word, text)
    ]
    assert not found, found


# The public interface


def public_functions_and_methods():
    """Yields (label, callable, its docstring) for all that a user of kmerge calls.

    A class stands for its constructor. A method that overrides one of a base class is documented there.
    """
    for name in kmerge.__all__:
        thing = getattr(kmerge, name)
        if inspect.isfunction(thing):
            yield name, thing, thing.__doc__
        elif inspect.isclass(thing):
            if "__init__" in vars(thing):
                yield name, thing.__init__, thing.__doc__
            for method, value in vars(thing).items():
                inherited = any(method in vars(base) for base in thing.__mro__[1:])
                if inspect.isfunction(value) and not method.startswith("_") and not inherited:
                    yield f"{name}.{method}", value, value.__doc__


PUBLIC = [pytest.param(function, doc, id=label) for label, function, doc in public_functions_and_methods()]


def parameters_of(function):
    return [p for p in inspect.signature(function).parameters.values() if p.name != "self"]


def described_arguments(doc):
    """(name, start of its description) under `Args:` (or `Attributes:`), in order; None where there is no such section."""
    lines = inspect.cleandoc(doc).splitlines()
    start = next((i for i, line in enumerate(lines) if line in {"Args:", "Attributes:"}), None)
    if start is None:
        return None
    section = lines[start + 1 :]
    end = next((i for i, line in enumerate(section) if line and not line.startswith(" ")), len(section))
    matches = (re.match(r" {4}(\*{0,2}\w+): (.*)", line) for line in section[:end])
    return [match.groups() for match in matches if match]


def documented_arguments(doc):
    """Their names, with their stars."""
    described = described_arguments(doc)
    return described if described is None else [name for name, _ in described]


# What stands alone says what the argument is: "seed of the noise", not "of the noise".
FRAGMENT = re.compile(r"(?:of|for|as|by|in|but|its|that|likewise)\b(?! (?:many|is))")


@pytest.mark.parametrize("function, doc", PUBLIC)
def test_descriptions_of_arguments_stand_alone(function, doc):
    assert not [(name, text) for name, text in described_arguments(doc or "") or [] if FRAGMENT.match(text)]


def test_every_public_name_has_a_docstring():
    things = {name: getattr(kmerge, name) for name in kmerge.__all__}
    constants = {name for name, thing in things.items() if not (callable(thing) or inspect.ismodule(thing))} - {"__version__"}
    # A constant has only the docstring of its type; those of a plan are described where they are used.
    assert not [name for name in constants if f"`{name}`" not in kmerge.Plan.__doc__]
    assert not [name for name in things if name not in constants and not (things[name].__doc__ or "").strip()]


@pytest.mark.parametrize("function, doc", PUBLIC)
def test_documented_arguments_are_those_of_the_signature(function, doc):
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    expected = [stars.get(p.kind, "") + p.name for p in parameters_of(function)]
    documented = documented_arguments(doc or "")
    is_method = "." in function.__qualname__ and function.__name__ != "__init__"
    if documented is None and is_method:
        assert doc, "a method says what it does; where its arguments speak for themselves it need not list them"
    else:
        assert (documented or []) == expected


@pytest.mark.parametrize("function, doc", PUBLIC)
def test_what_comes_back_is_documented(function, doc):
    returns = inspect.signature(function).return_annotation
    if function.__name__ != "__init__":
        assert returns is not inspect.Signature.empty, "no return annotation"
        # A method may say it in its one line; a function with arguments has the section.
        needs_section = returns not in (None, "None") and parameters_of(function) and "." not in function.__qualname__
        assert not needs_section or re.search(r"^\s*(Returns|Yields):", doc or "", re.MULTILINE)


@pytest.mark.parametrize("function, doc", PUBLIC)
def test_public_signatures_are_typed(function, doc):
    keywords = inspect.Parameter.VAR_KEYWORD
    untyped = [p.name for p in parameters_of(function) if p.annotation is p.empty and p.kind != keywords]
    assert not untyped


def test_public_functions_of_every_file_are_typed():
    wrong = []
    for path in SOURCES:
        for function in (n for n in TREES[path].body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")):
            arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
            if function.args.vararg:
                arguments.append(function.args.vararg)
            missing = [a.arg for a in arguments if a.annotation is None] + ["return"] * (function.returns is None)
            wrong += [f"{where(path, function)}: {function.name}: {', '.join(missing)}"] if missing else []
    assert not wrong, wrong
