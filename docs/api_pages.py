"""The pages of the API reference, made from the docstrings when the site is built; see hooks.py."""

import enum
import importlib
import inspect
import re
import textwrap

MODULES = {  # module -> what its page says first
    "jssl": "The names at the top. Modules below it are loaded when they are first used.",
    "jssl.losses": "",
    "jssl.augment": "",
    "jssl.methods": "What a method does: [Methods](../methods/index.md). How it is written: "
    "[Adding a method](../adding_a_method.md).",
    "jssl.optim": "",
    "jssl.evaluate": "As commands: [Evaluation protocols](../protocols.md).",
    "jssl.convert": "As commands: [Published weights](../published_weights.md).",
}
SECTION = re.compile(
    r"^((?:Args|Attributes|Returns|Raises|Yields|Examples?|References?)(?: \([^)\n]*\))?):", re.M
)
ENTRY = re.compile(r"^[\w*][\w*, ]*: ")


def public(module):
    """The public functions and classes of a module, by name."""
    names = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
    found = {name: getattr(module, name) for name in sorted(names)}
    kinds = inspect.isclass, inspect.isroutine
    return {
        name: value
        for name, value in found.items()
        if any(is_kind(value) for is_kind in kinds) and value.__module__.startswith("jssl.")
    }


def signature(value):
    """The parameters and defaults; types are in the docstring, with their shapes."""
    if inspect.isclass(value) and issubclass(value, Exception | enum.Enum):
        return ""
    found = inspect.signature(value)
    parameters = [p.replace(annotation=p.empty) for p in found.parameters.values()]
    text = str(found.replace(parameters=parameters, return_annotation=found.empty))
    return re.sub(r"<(?:function|class) '?([\w.]+).*?>", r"\1", re.sub(r" at 0x\w+", "", text))


def escaped(text):
    """Text whose `<` is no tag; lines of code, which are indented, stay."""
    lines = text.splitlines()
    return "\n".join(x if x.startswith("    ") else x.replace("<", "&lt;") for x in lines)


def section(name, text):
    """A section of a docstring as Markdown."""
    text = textwrap.dedent(text).strip("\n")
    if name.startswith("Example"):
        return f"**{name}**\n\n```pycon\n{text}\n```"
    entries = re.split(r"\n(?=\S)", text)
    if not all(map(ENTRY.match, entries)):
        return f"**{name}** {escaped(text.strip())}"
    items = (re.sub(r"\s*\n\s*", " ", entry).partition(": ") for entry in entries)
    lines = "\n".join(f"* `{names}`: {escaped(words)}" for names, _, words in items)
    return f"**{name}**\n\n{lines}"


def described(value):
    """A docstring as Markdown."""
    found = SECTION.split(inspect.getdoc(value) or "")
    parts = [escaped(found[0].strip())]
    for name, content in zip(found[1::2], found[2::2], strict=True):
        parts.append(section(name, content))
    return "\n\n".join(part for part in parts if part)


def page(name):
    module = importlib.import_module(name)
    about = MODULES[name] or escaped(inspect.getdoc(module).partition("\n")[0])
    parts = [f"# {name}", about]
    for short, value in public(module).items():
        parts.append(f"## {short}\n\n```python\n{name}.{short}{signature(value)}\n```")
        parts.append(described(value))
    return "\n\n".join(parts) + "\n"


def pages():
    """{path of a page: its Markdown}."""
    return {f"api/{name}.md": page(name) for name in MODULES}
