"""Every example in a docstring runs as it is printed."""

import doctest
import importlib
import pkgutil

import pytest

import jssl

MODULES = ["jssl"] + [
    name
    for _, name, _ in pkgutil.walk_packages(jssl.__path__, "jssl.")
    if not name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    count = sum(
        bool(test.examples)
        for name in MODULES
        for test in finder.find(importlib.import_module(name))
    )
    assert count >= 20
