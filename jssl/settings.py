"""Settings of a config: what a key's value is by default, and what it may be."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jssl.errors import nearest


class Rule(NamedTuple):
    """What a value may be: in words, and as a function."""

    expected: str
    holds: Callable[[Any], bool]


class Setting(NamedTuple):
    """The default of a key, and the rule that every value of it follows."""

    default: Any
    rule: Rule


def _is_number(value: Any, whole: bool) -> bool:
    kinds = int if whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)


def number(low: float, high: float = math.inf, *, open_low: bool = False, open_high: bool = False,
           whole: bool = False) -> Rule:  # fmt: skip
    """A finite number in a range; `open_low` and `open_high` leave its ends out."""
    kind = "a whole number" if whole else "a number"
    least = f"above {low}" if open_low else f"of at least {low}"
    most = "" if high == math.inf else f" and {'below' if open_high else 'at most'} {high}"

    def holds(value: Any) -> bool:
        if not _is_number(value, whole):
            return False
        above = value > low if open_low else value >= low
        return above and (value < high if open_high else value <= high)

    return Rule(f"{kind} {least}{most}", holds)


def whole(low: int, high: float = math.inf) -> Rule:
    """A whole number in a closed range."""
    return number(low, high, whole=True)


def one_of(*choices: str) -> Rule:
    """One of some words."""
    return Rule(f"one of {', '.join(repr(c) for c in choices)}", lambda value: value in choices)


def each(rule: Rule, *, count: int = 0, least: int = 0) -> Rule:
    """A tuple of values that all follow a rule; `count` of them, or `least` and more."""
    size = f"{count} values" if count else f"{least} or more values"

    def holds(value: Any) -> bool:
        fits = isinstance(value, (tuple, list)) and all(map(rule.holds, value))
        return fits and (len(value) == count if count else len(value) >= least)

    return Rule(f"{size} in brackets, each {rule.expected}", holds)


def either(value: Any, rule: Rule) -> Rule:
    """One special value, or what a rule says."""
    return Rule(f"{value!r} or {rule.expected}", lambda v: v == value or rule.holds(v))


BOOL = Rule("True or False", lambda value: isinstance(value, bool))
TEXT = Rule("text", lambda value: isinstance(value, str))
POSITIVE = number(0, open_low=True)
NON_NEGATIVE = number(0)
FRACTION = number(0, 1)
SHARE = number(0, 1, open_low=True)
BELOW_ONE = number(0, 1, open_high=True)
COUNT = whole(1)
NATURAL = whole(0)


def complaint(key: str, rule: Rule, value: Any) -> str:
    """What a message says of a value that breaks the rule of a flat key.

    Example:
        >>> complaint('moco.head', one_of('mlp', 'linear'), 'mpl')
        "--config.moco.head expects one of 'mlp', 'linear', found 'mpl' (did you mean 'mlp'?)."
    """
    advice = ""
    if isinstance(value, str) and rule.expected.startswith("one of"):
        choices = [c.strip("'") for c in rule.expected.removeprefix("one of ").split(", ")]
        near = nearest(value, choices)
        advice = f" ({near.partition('?')[0]}?)" if near.startswith("did") else ""
    return f"--config.{key} expects {rule.expected}, found {value!r}{advice}."


def flag(default: bool) -> Setting:
    """True or False."""
    return Setting(default, BOOL)


def text(default: str) -> Setting:
    """Any text."""
    return Setting(default, TEXT)


def choice(default: str, *others: str) -> Setting:
    """One of some words.

    Example:
        >>> choice('mlp', 'linear').rule.expected
        "one of 'mlp', 'linear'"
    """
    return Setting(default, one_of(default, *others))


def positive(default: float) -> Setting:
    """A number above 0."""
    return Setting(default, POSITIVE)


def non_negative(default: float) -> Setting:
    """A number of at least 0."""
    return Setting(default, NON_NEGATIVE)


def fraction(default: float) -> Setting:
    """A number in [0, 1]."""
    return Setting(default, FRACTION)


def share(default: float) -> Setting:
    """A number in (0, 1]."""
    return Setting(default, SHARE)


def below_one(default: float) -> Setting:
    """A number in [0, 1), as of a momentum."""
    return Setting(default, BELOW_ONE)


def count(default: int) -> Setting:
    """A whole number of at least 1."""
    return Setting(default, COUNT)


def natural(default: int) -> Setting:
    """A whole number of at least 0."""
    return Setting(default, NATURAL)


def defaults(settings: Mapping[str, Setting]) -> dict[str, Any]:
    """The default of each key.

    Example:
        >>> defaults({'temperature': positive(0.1)})
        {'temperature': 0.1}
    """
    return {key: setting.default for key, setting in settings.items()}
