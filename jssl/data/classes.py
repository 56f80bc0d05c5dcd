"""Class names: labels of two data sets may be compared only if their class names agree."""

import unicodedata
from collections.abc import Sequence
from typing import Any

from jssl.errors import UserError

Names = tuple[str, ...] | None


def class_names(source: Any) -> Names:
    """Returns the class names of a source in Unicode NFC, by label.

    Returns:
        None if they are unknown; () for a source without labels.

    Example:
        >>> from jssl.data.sources import photos_source
        >>> class_names(photos_source('test'))[:2]
        ('astronaut', 'chelsea')
    """
    names = getattr(source, "class_names", None)
    return None if names is None else normalized(names)


def normalized(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names in Unicode normal form NFC."""
    return tuple(unicodedata.normalize("NFC", str(name)) for name in names)


def difference(found: Names, expected: Names) -> str:
    """Describes how the class names of two data sets differ.

    Args:
        found: names of one; None or () if there are none.
        expected: names of the other.

    Returns:
        '' if they are equal or cannot be compared.

    Example:
        >>> difference(('cat', 'dog'), ('bird', 'cat', 'dog'))
        "2 classes for 3; class 0 is 'cat' in one and 'bird' in the other"
        >>> difference(('cat', 'dog'), None)
        ''
    """
    if not found or not expected or normalized(found) == normalized(expected):
        return ""
    pairs = zip(normalized(found), normalized(expected), strict=False)
    label = next((i for i, (one, other) in enumerate(pairs) if one != other), None)
    parts = [f"{len(found)} classes for {len(expected)}"] if len(found) != len(expected) else []
    if label is not None:
        parts.append(
            f"class {label} is '{found[label]}' in one and '{expected[label]}' in the other"
        )
    return "; ".join(parts)


def check_same(found: Names, expected: Names, *, what: str, advice: str) -> None:
    """Raises UserError if the class names of two data sets differ.

    Args:
        found: names of one; None or () if there are none.
        expected: names of the other.
        what: start of the message, such as 'The probe split and the test split'.
        advice: what to type.

    Raises:
        UserError: they differ.
    """
    if message := difference(found, expected):
        raise UserError(
            f"{what} have other classes: found {message}; expected the same names in the same "
            f"order, since labels are compared by number. {advice}"
        )
