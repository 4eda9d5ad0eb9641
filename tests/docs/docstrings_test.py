"""The docstrings that the reference shows describe every argument and each error that is raised."""

import ast
import importlib
import re
from collections.abc import Iterator

import pytest

from tests.docs.documents import ROOT
from tests.docs.site_test import MODULES, PACKAGES

PUBLIC = {name for package in PACKAGES for name in importlib.import_module(package).__all__}


def _section(node: ast.AST, name: str) -> str:
    """Returns a section of the docstring of a class or function."""
    docstring = f"{ast.get_docstring(node) or ''}\n"
    found = re.search(rf"^{name}:\n((?: +.*\n|\n)*)", docstring, re.MULTILINE)
    return found[1] if found else ""


def _missing(node: ast.AST, describing: ast.AST, where: str) -> Iterator[str]:
    """Yields what a docstring leaves out of a function that it describes."""
    arguments = node.args
    given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    given += [one for one in (arguments.vararg, arguments.kwarg) if one]
    if node.name == "__init__" or node is describing:
        described = _section(describing, "Args")
        # Short functions and methods describe their arguments in the first sentence.
        if node.name == "__init__" or described:
            for name in (one.arg for one in given if one.arg not in ("self", "cls")):
                if not re.search(rf"^ +\*{{0,2}}{name}:", described, re.MULTILINE):
                    yield f"{where} does not describe {name}"
    docstring = ast.get_docstring(describing) or ""
    for part in ast.walk(node):
        match part:
            case ast.Raise(exc=ast.Call(func=ast.Name(id=error))) if error[0].isupper():
                if error not in _section(describing, "Raises") and "Raises " not in docstring:
                    yield f"{where} does not say that it raises {error}"


def _faults(source: str, is_public) -> list[str]:
    """Returns what the docstrings of public names leave out."""
    faults: list[str] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and is_public(node.name):
            faults += _missing(node, node, node.name)
        elif isinstance(node, ast.ClassDef) and is_public(node.name):
            for method in (one for one in node.body if isinstance(one, ast.FunctionDef)):
                where = f"{node.name}.{method.name}"
                if method.name == "__init__":
                    faults += _missing(method, node, node.name)
                # One without a docstring has that of the method that it overrides.
                elif not method.name.startswith("_") and ast.get_docstring(method):
                    faults += _missing(method, method, where)
    return faults


@pytest.mark.parametrize("folder", sorted({package.split(".")[1] for package in PACKAGES[1:]}))
def test_docstrings_of_public_names_are_complete(folder):
    for path in sorted((ROOT / "l2l_tf" / folder).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        of_module = module in MODULES

        def is_public(name, of_module=of_module):
            return name in PUBLIC or (of_module and not name.startswith("_"))

        assert _faults(path.read_text(), is_public) == [], path


def test_what_is_left_out_is_found():
    source = '''
class Rule:
    """A rule.

    Args:
        rate: its rate.
    """

    def __init__(self, rate, momentum):
        if rate < 0:
            raise ValueError("negative")

    def step(self, size):
        """Takes a step.

        Args:
            length: how far.
        """
        raise TypeError("never")


def _private(argument):
    raise KeyError("unknown")
'''
    assert _faults(source, lambda name: not name.startswith("_")) == [
        "Rule does not describe momentum",
        "Rule does not say that it raises ValueError",
        "Rule.step does not describe size",
        "Rule.step does not say that it raises TypeError",
    ]
