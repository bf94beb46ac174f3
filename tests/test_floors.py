"""The floors of the house: imports only point down, and importing aforo brings in nothing but NumPy."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = {"aforo": ROOT / "framework" / "aforo", "aforo_backends": ROOT / "backends" / "aforo_backends"}

# From the ground up, in the order of DESIGN.md's layout. A floor may import itself and what is below it.
# A name stands for a module or a package and all in it; the longest name that fits counts.
FLOORS: list[list[str]] = [
    ["aforo_backends.contract"],
    ["aforo_backends"],
    ["aforo.errors", "aforo.tables", "aforo.collector", "aforo.figures"],
    ["aforo.specs", "aforo.random", "aforo.settings", "aforo.budget"],
    ["aforo.graph"],
    ["aforo.ops"],
    ["aforo.gradient", "aforo.mixing", "aforo.recompute"],
    ["aforo.loop"],
    ["aforo.plan"],
    ["aforo.device", "aforo.binding", "aforo.program"],
    ["aforo.parameter", "aforo.initializers", "aforo.regularizers", "aforo.schedules"],
    ["aforo.evaluate"],
    ["aforo.layers", "aforo.losses", "aforo.metrics", "aforo.confusion", "aforo.optimizers"],
    ["aforo.heads"],
    ["aforo.checks", "aforo.targets", "aforo.steps"],
    ["aforo.recurrence"],
    ["aforo.topology"],
    ["aforo.network"],
    ["aforo.compiled"],
    ["aforo.model"],
    ["aforo.sequential"],
    ["aforo.feeding", "aforo.batches"],
    [
        "aforo.training",
        "aforo.history",
        "aforo.callbacks",
        "aforo.progress",
        "aforo.samples",
        "aforo.economy",
        "aforo.stepping",
    ],
    ["aforo.outline"],
    ["aforo.memory", "aforo.summary", "aforo.probe"],
    [
        "aforo.draw",
        "aforo.explain",
        "aforo.simplify",
        "aforo.diagnose",
        "aforo.io",
        "aforo.data",
        "aforo.datasets",
        "aforo.sklearn",
        "aforo.onnx",
    ],
    ["aforo"],  # the package itself: what users see
    ["aforo.cli", "aforo.__main__"],
]

# Imports that point up, each with its reason. A line here that is no longer needed fails a test.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("aforo.compiled", "aforo.stepping"): "a step on its own is a graph of the model's; imported at the call",
    ("aforo.model", "aforo.stepping"): "Model.step and reset_states are one line each; imported at the call",
    ("aforo.model", "aforo.training"): "Sequential.fit, evaluate and predict are one line each: the loops live a floor above",
    ("aforo.model", "aforo.memory.measure"): "Model.memory hands the model to the report; imported at the call",
    ("aforo.economy", "aforo.memory.data"): "a budget counts the data that fit holds as the report does; imported at the call",
    ("aforo.model", "aforo.memory.inverse"): "Model.max_batch_size hands the model to the search; imported at the call",
    ("aforo.model", "aforo.summary"): "Sequential.summary hands the model to the printer; imported at the call",
    ("aforo.model", "aforo.draw"): "Model.draw hands the model to the pictures; imported at the call",
    ("aforo.model", "aforo.explain"): "Model.explain hands the model to the whiteboard; imported at the call",
    ("aforo.model", "aforo.simplify"): "Model.simplify hands the model over; imported at the call",
    ("aforo.model", "aforo.io"): "Model.save and load_weights hand the model to the files; imported at the call",
    ("aforo.model", "aforo.diagnose"): "Model.diagnose hands the model over; imported at the call",
    ("aforo.model", "aforo.onnx"): "Model.export_onnx hands the model over; imported at the call",
}


def modules(package: str) -> dict[str, Path]:
    """Module name -> file."""
    root = SOURCES[package]
    found = {}
    for file in sorted(root.rglob("*.py")):
        parts = [package, *file.relative_to(root).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = {**modules("aforo_backends"), **modules("aforo")}


def statements(tree: ast.AST, inside: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import that can run, and whether it stands in a function. `if TYPE_CHECKING` never runs."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node, inside
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for each in node.orelse:
                yield from statements(each, inside)
        else:
            yield from statements(node, inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))


def imported(name: str, source: str, is_package: bool, known: set[str]) -> Iterator[tuple[str, bool]]:
    """The modules that a module imports, by absolute name, and whether only inside a function."""
    for node, inside in statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, inside
            continue
        base = node.module or ""
        if node.level:
            above = name.split(".") if is_package else name.split(".")[:-1]
            base = ".".join([*above[: len(above) - node.level + 1], *([node.module] if node.module else [])])
        for alias in node.names:  # `from . import x` imports a module where there is one, else a name of the package
            yield (f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base), inside


@cache
def edges() -> list[tuple[str, str, bool]]:
    """All imports between our own modules."""
    known = set(MODULES)
    return sorted(
        {
            (name, target, inside)
            for name, file in MODULES.items()
            for target, inside in imported(name, file.read_text(), file.name == "__init__.py", known)
            if target.split(".")[0] in SOURCES
        }
    )


def floor(name: str) -> int:
    """The floor of a module."""
    places = {entry: number for number, entries in enumerate(FLOORS) for entry in entries}
    while name not in places:
        assert "." in name, f"{name} has no floor"
        name = name.rpartition(".")[0]
    return places[name]


def pointing_up(found: list[tuple[str, str, bool]]) -> list[tuple[str, str]]:
    return [(name, target) for name, target, _ in found if floor(target) > floor(name)]


def test_every_module_has_a_floor_of_its_own() -> None:
    listed = {entry for entries in FLOORS for entry in entries}
    tops = {".".join(name.split(".")[:2]) for name in MODULES if name.startswith("aforo.")}
    assert tops <= listed, "say in FLOORS where the new module stands"
    assert sum(map(len, FLOORS)) == len(listed)


def test_imports_only_point_down() -> None:
    assert [edge for edge in pointing_up(edges()) if edge not in EXCEPTIONS] == []


def test_every_listed_exception_is_still_there() -> None:
    assert set(EXCEPTIONS) <= set(pointing_up(edges()))


def test_nothing_below_the_top_imports_the_package_as_users_do() -> None:
    assert [name for name, target, _ in edges() if target == "aforo" and floor(name) < floor("aforo")] == []


def cycles(found: list[tuple[str, str, bool]]) -> list[str]:
    """Modules that cannot be put in an order in which each comes after what it imports at its top."""
    waiting = {name: {target for n, target, inside in found if n == name and not inside and target != name} for name in MODULES}
    while True:
        ready = [name for name, needs in waiting.items() if not needs & waiting.keys()]
        if not ready:
            return sorted(waiting)
        for name in ready:
            del waiting[name]


def test_no_modules_import_each_other_in_a_circle() -> None:
    # A package's __init__ imports what is in it, so a module that asks its own package for a name would be a circle too.
    assert cycles(edges()) == []


def test_the_backends_import_nothing_of_the_framework() -> None:
    assert [edge for edge in edges() if edge[0].startswith("aforo_backends") and not edge[1].startswith("aforo_backends")] == []


def test_the_verifier_shares_no_code_with_the_planner() -> None:
    # Operand is the plain data a plan is made of; the contract says what instructions mean.
    targets = {target for name, target, _ in edges() if name == "aforo.plan.verify"}
    assert targets <= {"aforo.errors", "aforo.graph", "aforo.specs", "aforo.plan.draft", "aforo_backends.contract"}
    names = {
        alias.name
        for node, _ in statements(ast.parse(MODULES["aforo.plan.verify"].read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "draft"
        for alias in node.names
    }
    assert names <= {"Operand"}


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("aforo.graph.tensor", "from ..model import Sequential", "aforo.model"),
        ("aforo.graph", "from ..model import Sequential", "aforo.model"),
        ("aforo.specs", "def f():\n    from . import model\n", "aforo.model"),
        ("aforo.specs", "class A:\n    def f(self):\n        if 1:\n            import aforo.training", "aforo.training"),
        ("aforo.plan.order", "from . import plan", "aforo.plan.plan"),
        ("aforo_backends.numpy", "from aforo.specs import Dim", "aforo.specs"),
    ],
)
def test_every_way_of_importing_is_seen(name: str, source: str, expected: str) -> None:
    found = list(imported(name, source, MODULES[name].name == "__init__.py", set(MODULES)))
    assert [target for target, _ in found] == [expected]
    if expected != "aforo.plan.plan":
        assert pointing_up([(name, expected, False)]) == [(name, expected)]


def test_imports_for_type_checkers_do_not_count() -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .model import Sequential\n"
    assert [target for target, _ in imported("aforo.memory", source, False, set(MODULES))] == ["typing"]


def test_a_circle_is_noticed() -> None:
    assert cycles([*edges(), ("aforo.errors", "aforo.specs", False)]) != []
    assert cycles([*edges(), ("aforo.errors", "aforo.specs", True)]) == []


# --- what comes in with it --------------------------------------------------------------------------------------------


def fresh(code: str) -> str:
    path = os.pathsep.join(str(source.parent) for source in SOURCES.values())
    env = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True).stdout


_NEW = """
import sys
before = set(sys.modules)
import {package}
new = {{name.split(".")[0] for name in set(sys.modules) - before}}
print(*sorted(new - set(sys.stdlib_module_names)))
"""


def test_importing_aforo_brings_in_no_package_but_numpy() -> None:
    assert set(fresh(_NEW.format(package="aforo")).split()) == {"aforo", "aforo_backends", "numpy"}


def test_importing_the_backends_needs_no_array_library_at_all() -> None:
    assert set(fresh(_NEW.format(package="aforo_backends")).split()) == {"aforo_backends"}


def test_importing_aforo_reads_no_package_metadata() -> None:
    # The scan for entry points takes longer than importing NumPy.
    assert "importlib.metadata" not in fresh("import sys, aforo; print(*sys.modules)").split()
