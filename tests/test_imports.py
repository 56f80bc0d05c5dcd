"""The floors of jssl: a module imports from its own floor and from lower ones, never upward."""

import ast

import pytest
from helpers import ROOT

# From the ground up; the longest name that fits a module says its floor. `run` has two: what a
# run is made of lies below `evaluate`, what trains and judges above it.
FLOORS = (
    ("errors", "third_party", "precision"),
    ("types", "regular", "files", "settings"),
    ("numerics",),
    ("parallel.collectives",),
    ("losses", "dense", "models", "state", "optim", "augment", "metrics"),
    ("parallel",),
    ("methods",),
    ("data",),
    ("config", "commands", "flags", "shipped"),
    ("run",),
    ("evaluate",),
    ("run.results",),
    ("report",),
    ("run.train", "run.judge", "run.stages", "run.selection", "run.call", "run.quick",
     "run.sweep", "run.timed"),
    ("compile", "convert"),
    ("encoder",),
    ("main", "__main__", "__init__"),
)  # fmt: skip
FLOOR = {name: level for level, names in enumerate(FLOORS) for name in names}
# What a method may import, besides other methods.
METHODS = {"augment", "dense", "errors", "losses", "metrics", "models", "numerics", "optim",
           "parallel", "precision", "settings", "state", "third_party", "types"}  # fmt: skip
PATHS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted((ROOT / "jssl").rglob("*.py"))
}
MODULES = {name.removesuffix(".__init__"): path for name, path in PATHS.items()}


def imports(path):
    """The modules of jssl that a file imports, those within its functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("jssl")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jssl":
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found


def floor(module):
    parts = module.split(".")[1:] or ["__init__"]
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[:length])) in FLOOR:
            return FLOOR[name]
    raise AssertionError(f"{module} has no floor: give it one in FLOORS")


GRAPH = {name: imports(path) for name, path in MODULES.items()}


@pytest.mark.parametrize("module", GRAPH)
def test_no_module_imports_from_a_higher_layer(module):
    upward = {target for target in GRAPH[module] if floor(target) > floor(module)}
    assert not upward, f"{module} imports {sorted(upward)}, which lie above it"


def test_methods_import_what_the_design_lists():
    for module, targets in GRAPH.items():
        if module.startswith("jssl.methods"):
            rooms = {target.split(".")[1] for target in targets if "." in target}
            assert rooms <= {*METHODS, "methods"}, module


def test_there_are_no_import_cycles():
    done, open_ = set(), []

    def visit(module):
        if module in open_:
            raise AssertionError(" -> ".join([*open_[open_.index(module) :], module]))
        if module in done:
            return
        open_.append(module)
        for target in sorted(GRAPH[module]):
            # A package runs before its modules; one of them that asks it for another is no circle.
            if target in GRAPH and not module.startswith(f"{target}."):
                visit(target)
        done.add(open_.pop())

    for module in GRAPH:
        visit(module)


@pytest.mark.parametrize("module", [m for m in GRAPH if m.split(".")[1:2] != ["data"]])
def test_a_method_is_known_by_its_spec_alone(module):
    """No getattr or hasattr on a method, its module or its state; no other name is looked up."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("getattr", "hasattr"):
                subject = ast.unparse(node.args[0])
                assert not any(word in subject for word in ("state", "method", "spec")), (
                    f"{module}:{node.lineno}: {ast.unparse(node)}"
                )
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Call):
            if ast.unparse(node.value.func) == "methods.load":
                raise AssertionError(f"{module}:{node.lineno}: {ast.unparse(node)}")
