"""Check a package's public names: the table of its lazy imports, and the examples in docstrings.

As a program it runs examples:

python -m tests.doctests gaplab.run_sweep gaplab.leaderboard
"""

import ast
import doctest
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any


def check_public_names(package: ModuleType, *own: str) -> None:
    """Assert that Python and type checkers find the same public names in the same modules.

    Args:
        package: a package with a table `_MODULES` of its lazy imports.
        own: the public names that it defines itself.
    """
    table: dict[str, str] = vars(package)["_MODULES"]
    assert table == _imports_for_type_checkers(package)
    assert sorted(package.__all__) == sorted([*table, *own])
    assert set(package.__all__) <= set(dir(package))
    for name, module in table.items():
        assert getattr(package, name) is getattr(import_module(module), name)


def run_examples(*subjects: Any) -> int:
    """Run the examples in the docstrings of modules, classes or functions; return their number.

    The functions of a module and the methods of a class are not searched.
    """
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    for subject in subjects:
        for test in finder.find(subject, subject.__name__, globs={}):
            assert runner.run(test).failed == 0, f"an example of {test.name} fails, see the output"
    return runner.tries


def _imports_for_type_checkers(package: ModuleType) -> dict[str, str]:
    """Return the names imported in the block `if TYPE_CHECKING`, each with its module."""
    tree = ast.parse(Path(str(package.__file__)).read_text())
    blocks = [
        node.body
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    imports = [node for block in blocks for node in block if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def main() -> None:
    """Run the examples of the objects named on the command line, in this order."""
    for name in sys.argv[1:]:
        module, _, attribute = name.rpartition(".")
        assert run_examples(getattr(import_module(module), attribute)) > 0


if __name__ == "__main__":
    main()
