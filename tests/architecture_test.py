"""The sources follow the map in docs/map.md."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SUBPACKAGES = (
    *("data", "problems", "rules", "evaluation", "training", "delivery"),
    *("analysis", "reporting"),
)
# Beside the subpackages, for all of them.
MODULES = ("files", "checks", "optional", "startup", "keras_internals", "parameter_spec")
_LAST = ("analysis", "reporting")
# What a subpackage never imports, directly or by way of others.
NEVER = {
    "data": {"problems", "rules", "evaluation", "training", "delivery", *_LAST},
    "problems": {"data", "rules", "evaluation", "training", "delivery", *_LAST},
    "rules": {"data", "problems", "evaluation", "training", "delivery", *_LAST},
    "evaluation": {"data", "training", "delivery", *_LAST},
    "training": {"data", "delivery", *_LAST},
    "delivery": {"data", "problems", "evaluation", "training", *_LAST},
    "analysis": {"data", "training", "delivery", "reporting"},
    "reporting": {"data", "training", "delivery", "analysis"},
}


def _map() -> list[str]:
    """Returns the modules of the map, from top to bottom, each package after its own modules."""
    (drawing,) = re.findall(
        r"^l2l_tf/\n(.*?)^\S", (ROOT / "docs" / "map.md").read_text(), re.S | re.M
    )
    return _modules_in(drawing)


def _modules_in(drawing: str) -> list[str]:
    """Returns the modules of a drawing in which each folder is indented by two more."""
    modules: list[str] = []
    # Those that a line may stand in, each within the one before it.
    packages = ["l2l_tf"]
    for indent, name in re.findall(r"^( +)(\w+(?:/|\.py))", drawing, re.M):
        while len(packages) > len(indent) // 2:
            modules.append(packages.pop())
        full_name = f"{packages[-1]}.{name.removesuffix('/').removesuffix('.py')}"
        (packages if name.endswith("/") else modules).append(full_name)
    return [*modules, *reversed(packages)]


def _module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


SOURCES = {_module_name(path): path.read_text() for path in (ROOT / "l2l_tf").rglob("*.py")}


def _imports(source: str, modules: set[str]) -> Iterator[str]:
    """Yields what a source imports, anywhere in it, as full names of modules where they are ours.

    A relative import is yielded with its dots, so that it is found to be no module of the map.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = "." * node.level + (node.module or "")
            for alias in node.names:
                whole = f"{package}.{alias.name}"
                yield whole if whole in modules else package


def _backward_imports(sources: dict[str, str], order: list[str]) -> list[str]:
    """Returns a sentence on each import of what does not stand above its module."""
    return [
        f"{module} imports {imported}, which does not stand above it."
        for module, source in sources.items()
        for imported in _imports(source, set(order))
        if imported.startswith((".", "l2l_tf"))
        and (imported not in order or order.index(imported) >= order.index(module))
    ]


def _reached(sources: dict[str, str], subpackage: str) -> set[str]:
    """Returns the subpackages that one imports, directly or by way of others."""
    to_visit = [name for name in sources if name.startswith(f"l2l_tf.{subpackage}")]
    seen = set(to_visit)
    while to_visit:
        for imported in _imports(sources[to_visit.pop()], set(sources)):
            if imported in sources and imported not in seen:
                seen.add(imported)
                to_visit.append(imported)
    return {name.split(".")[1] for name in seen if "." in name} - {subpackage, *MODULES}


def _calls_of_print(source: str) -> list[str]:
    """Returns where a source prints: the name of the class or function at the top level."""
    return [
        getattr(statement, "name", "<module>")
        for statement in ast.parse(source).body
        for node in ast.walk(statement)
        if (isinstance(node, ast.Name) and node.id == "print")
        or (isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr"))
    ]


# The map


def test_the_map_draws_every_module_and_no_other():
    assert sorted(_map()) == sorted(SOURCES)


def test_the_map_stands_in_the_order_of_the_layers():
    packages = [name for name in _map() if name.count(".") == 1]
    assert packages == [f"l2l_tf.{name}" for name in (*MODULES, *SUBPACKAGES)]


# The sources


def test_a_module_imports_only_what_stands_above_it_in_the_map():
    assert _backward_imports(SOURCES, _map()) == []


@pytest.mark.parametrize("subpackage", SUBPACKAGES)
def test_layers_are_not_reached_from_where_they_are_not_needed(subpackage):
    assert not _reached(SOURCES, subpackage) & NEVER[subpackage]


def test_the_library_knows_nothing_of_flags_or_experiments():
    for module, source in SOURCES.items():
        for imported in _imports(source, set(SOURCES)):
            assert imported.split(".")[0] not in ("absl", "experiments", "tests"), module


def test_nothing_in_the_library_prints_but_the_progress_bar_and_one_line_at_the_end():
    printing = {module: _calls_of_print(source) for module, source in SOURCES.items()}
    # It passes on what TensorFlow prints.
    del printing["l2l_tf.startup"]
    assert {module: names for module, names in printing.items() if names} == {
        "l2l_tf.training.callbacks": ["MetaProgressBar"],
        # A compiled step can't warn.
        "l2l_tf.delivery.horizon": ["Horizon"],
    }


def test_one_module_alone_uses_what_has_no_public_name():
    private = re.compile(r"tensorflow\.python|keras\.src|tf\.__internal__")
    assert [name for name in SOURCES if private.search(SOURCES[name])] == ["l2l_tf.keras_internals"]


# The checks themselves


def test_folders_within_folders_are_read():
    drawing = """\
  files.py      a module
  rules/        a package
    rule.py       of it
    execution/    a package within it
      chunks.py     a module there
    tensors.py    of the outer one again
  training/     another
    unroll.py
"""
    assert _modules_in(drawing) == [
        "l2l_tf.files",
        "l2l_tf.rules.rule",
        "l2l_tf.rules.execution.chunks",
        "l2l_tf.rules.execution",
        "l2l_tf.rules.tensors",
        "l2l_tf.rules",
        "l2l_tf.training.unroll",
        "l2l_tf.training",
        "l2l_tf",
    ]


ORDER = ["l2l_tf.rules.rule", "l2l_tf.rules.lstm", "l2l_tf.rules", "l2l_tf.training", "l2l_tf"]


@pytest.mark.parametrize(
    ("module", "line", "named"),
    [
        ("l2l_tf.rules.rule", "from l2l_tf.rules.lstm import LSTM", "l2l_tf.rules.lstm"),
        ("l2l_tf.rules.rule", "from l2l_tf.rules import lstm", "l2l_tf.rules.lstm"),
        ("l2l_tf.rules.rule", "import l2l_tf.training as t", "l2l_tf.training"),
        ("l2l_tf.rules.rule", "def f():\n    from l2l_tf import load", "l2l_tf"),
        ("l2l_tf.rules.lstm", "from l2l_tf.rules import Rule", "l2l_tf.rules"),
        ("l2l_tf.rules.lstm", "from .rule import Rule", ".rule"),
        ("l2l_tf.rules.lstm", "import l2l_tf.nowhere", "l2l_tf.nowhere"),
        ("l2l_tf.rules.lstm", "import l2l_tf.rules.lstm", "l2l_tf.rules.lstm"),
    ],
)
def test_a_backward_import_is_found_however_it_is_written(module, line, named):
    assert _backward_imports({module: line}, ORDER) == [
        f"{module} imports {named}, which does not stand above it."
    ]


def test_a_forward_import_is_allowed():
    sources = {
        "l2l_tf.rules.lstm": "import keras\nfrom l2l_tf.rules.rule import Rule",
        "l2l_tf.rules": "from l2l_tf.rules.lstm import LSTM",
        "l2l_tf.training": "from l2l_tf.rules import rule\nimport l2l_tf.rules",
    }
    assert _backward_imports(sources, ORDER) == []


def test_a_layer_that_is_reached_by_way_of_another_is_found():
    sources = {
        "l2l_tf.delivery.export": "from l2l_tf.rules.rule import Rule",
        "l2l_tf.rules.rule": "from l2l_tf.problems.problem import Problem",
        "l2l_tf.problems.problem": "import tensorflow as tf",
    }
    assert _reached(sources, "delivery") == {"rules", "problems"}
    assert _reached(sources, "rules") == {"problems"}


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ("print('hello')", "<module>"),
        ("def f():\n    print()", "f"),
        ("class A:\n    def f(self):\n        self.write = print", "A"),
        ("def f():\n    sys.stdout.write('')", "f"),
    ],
)
def test_printing_is_found_wherever_it_stands(line, where):
    assert _calls_of_print(line) == [where]
