"""The public names and signatures of jssl are those of tests/golden/surface.txt.

After a change that is meant: `JSSL_UPDATE_GOLDEN=1 pytest tests/test_surface.py`.
"""

import ast
import importlib
import inspect
import os
import pkgutil

import flax.linen as nn
import pytest
from helpers import ROOT

import jssl
from jssl import methods

GOLDEN = ROOT / "tests" / "golden" / "surface.txt"
# Of these every public name is kept, and every module of the packages among them.
MODULES = ("augment", "config", "data", "dense", "errors", "evaluate", "losses", "methods",
           "metrics", "models", "optim", "state", "types")  # fmt: skip
UPDATE = "JSSL_UPDATE_GOLDEN=1 pytest tests/test_surface.py"


def public_names(module):
    """Its `__all__`, or what it defines and imports by `import name as name`."""
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    names = set()
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {
                name.id for t in targets for name in ast.walk(t) if isinstance(name, ast.Name)
            }
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.name for alias in node.names if alias.asname == alias.name}
    found = (name for name in names if not name.startswith("_"))
    return sorted(name for name in found if not inspect.ismodule(getattr(module, name)))


def plain(value):
    """A default value as text that is the same on every machine and version of Python."""
    if isinstance(value, float):
        return repr(float(f"{value:.6g}"))  # the last digits of a power are the machine's
    if value is None or isinstance(value, bool | int | str):
        return repr(value)
    if isinstance(value, tuple | list) and type(value) in (tuple, list):
        inside = ", ".join(map(plain, value)) if len(value) < 10 else f"{len(value)} values"
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {plain(v)}" for k, v in value.items()) + "}"
    return getattr(value, "__name__", "...")


def signature(function, without=()):
    """Names, kinds and defaults of the parameters; types may become more exact without a word."""
    parameters = [
        p.replace(annotation=p.empty)
        for p in inspect.signature(function).parameters.values()
        if p.name not in without
    ]
    text, kind = [], None
    for p in parameters:
        if kind == p.POSITIONAL_ONLY != p.kind:
            text.append("/")
        if p.kind == p.KEYWORD_ONLY and kind not in (p.KEYWORD_ONLY, p.VAR_POSITIONAL):
            text.append("*")
        star = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        default = "" if p.default is p.empty else f"={plain(p.default)}"
        text.append(f"{star}{p.name}{default}")
        kind = p.kind
    if kind is not None and kind == inspect.Parameter.POSITIONAL_ONLY:
        text.append("/")
    return f"({', '.join(text)})"


def of_class(name, value):
    """The constructor and the public attributes of a class, without those of other libraries."""
    own = [c for c in value.__mro__ if c.__module__.split(".")[0] == "jssl"]
    made = {"__init__", "__new__", "__dataclass_fields__", "_fields"}
    constructor = ""
    if any(made & vars(c).keys() for c in own) and not getattr(value, "_is_protocol", False):
        linen = ("parent", "name") if issubclass(value, nn.Module) else ()
        constructor = signature(value, without=linen)
    yield f"{name}{constructor}"
    fields = getattr(value, "__dataclass_fields__", getattr(value, "_fields", ()))
    for attribute in sorted({a for c in own for a in {*vars(c), *inspect.get_annotations(c)}}):
        found = inspect.getattr_static(value, attribute, None)
        foreign = getattr(found, "__module__", "jssl").split(".")[0] != "jssl"
        if attribute.startswith("_") or attribute in fields or foreign and callable(found):
            continue
        if isinstance(found, classmethod | staticmethod):
            found = found.__func__
        yield f"{name}.{attribute}" + (signature(found) if inspect.isfunction(found) else "")


def of_value(name, value):
    if inspect.isclass(value) and value.__module__.split(".")[0] == "jssl":
        yield from of_class(name, value)
    elif callable(value) and getattr(value, "__module__", "").split(".")[0] == "jssl":
        yield name + signature(value)
    else:
        yield name


def surface():
    lines = set()
    for name in jssl.__all__:
        value = getattr(jssl, name)
        lines |= {f"jssl.{name}"} if inspect.ismodule(value) else {*of_value(f"jssl.{name}", value)}
    for short in MODULES:
        module = importlib.import_module(f"jssl.{short}")
        for name in public_names(module):
            lines |= {*of_value(f"jssl.{short}.{name}", getattr(module, name))}
        paths = getattr(module, "__path__", [])
        for _, name, _ in pkgutil.walk_packages(paths, f"jssl.{short}."):
            if not any(part.startswith("_") for part in name.split(".")):
                lines.add(name)
    for name in methods.names():
        lines.add(f"jssl.methods.{name}.make{signature(methods.get(name).make)}")
    return sorted(lines)


def test_the_public_surface_is_the_golden_one():
    found = surface()
    if os.environ.get("JSSL_UPDATE_GOLDEN"):
        GOLDEN.write_text("\n".join(found) + "\n")
    expected = GOLDEN.read_text().splitlines()
    gone, new = sorted({*expected} - {*found}), sorted({*found} - {*expected})
    names = {line.partition("(")[0] for line in gone}
    before = "\n".join(f"  before: {line}" for line in gone)
    after = "\n".join(f"  now:    {line}" for line in new if line.partition("(")[0] in names)
    assert not gone, (
        f"Public names or signatures changed:\n{before}\n{after}\n"
        "Add a line to CHANGELOG.md, keep the old name for one release with a DeprecationWarning, "
        f"then type {UPDATE}"
    )
    lines = "\n".join(f"  {line}" for line in new)
    assert not new, f"New public names:\n{lines}\nType {UPDATE} and commit tests/golden/surface.txt"


def test_the_surface_has_no_memory_address():
    assert " at 0x" not in GOLDEN.read_text()


def test_the_old_name_of_evaluate_warns():
    with pytest.warns(DeprecationWarning, match="jssl.protocols is now jssl.evaluate"):
        assert jssl.protocols is importlib.import_module("jssl.evaluate")


def test_train_is_a_function():
    assert inspect.isfunction(inspect.unwrap(jssl.train))
    assert list(inspect.signature(jssl.train).parameters)[:2] == ["config", "folder"]
