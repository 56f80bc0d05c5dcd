"""The house rules, as tests."""

import ast
import importlib
import inspect
import pkgutil
import re

import pytest
from helpers import ROOT

import jssl
from jssl import augment, losses

FILES = sorted((ROOT / "jssl").rglob("*.py"))
MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(jssl.__path__, "jssl.")
    if not name.endswith("__main__")
]


def public_functions(module):
    for name, value in vars(module).items():
        if (
            inspect.isfunction(value)
            and not name.startswith("_")
            and value.__module__ == module.__name__
        ):
            yield name, value


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_collectives_live_in_one_file_and_axis_names_in_one_place(path):
    text = path.read_text()
    if path.name != "collectives.py":
        found = re.findall(
            r"lax\.(?:p(?:sum|mean|max|min|permute|broadcast)|all_\w+|axis_\w+)", text
        )
        assert not found
    if path.name != "launcher.py":
        literals = [
            node.value
            for call in ast.walk(ast.parse(text))
            if isinstance(call, ast.Call)
            for keyword in call.keywords
            if keyword.arg == "axis_name"
            for node in [keyword.value]
            if isinstance(node, ast.Constant) and node.value is not None
        ]
        assert not literals


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_have_at_most_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("name", MODULES)
def test_public_names_have_docstrings(name):
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    for function_name, function in public_functions(module):
        assert function.__doc__, f"{name}.{function_name} has no docstring"
        first = function.__doc__.strip().splitlines()[0]
        assert len(first) <= 100
        assert first.endswith((".", "?", ":", "...")) or "." in first


@pytest.mark.parametrize("name", losses.__all__)
def test_losses_follow_the_contract(name):
    function = getattr(losses, name)
    parameters = list(inspect.signature(function).parameters.values())
    arrays = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    options = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert arrays and len(arrays) + len(options) == len(parameters)
    assert all(p.default is p.empty for p in arrays), "arrays have no defaults"
    names = [p.name for p in options]
    if "axis_name" in names:
        assert names[-1] == "axis_name"
        assert options[-1].default is None
    for section in ("Args:", "Returns:", "Raises:", "Example:", ">>>"):
        assert section in function.__doc__, f"{name} lacks '{section}'"
    assert "Reference:" in function.__doc__ or "http" in function.__doc__


def test_random_augmentations_take_the_key_first():
    random = [
        (name, f)
        for name in augment.__all__
        if inspect.isfunction(f := getattr(augment, name))
        and "key" in inspect.signature(f).parameters
    ]
    assert len(random) >= 3
    for name, function in random:
        parameters = list(inspect.signature(function).parameters)
        assert "key" in parameters[:2], name
        assert parameters.index("key") <= (1 if parameters[0] == "fn" else 0), name


def test_no_pickle_is_loaded():
    for path in FILES:
        text = path.read_text()
        assert not re.search(r"pickle\.loads?\(|allow_pickle=True|torch\.load\(", text), path
