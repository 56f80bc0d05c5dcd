"""Names of classes: numbers of two data sets mean the same only where their names do."""

import unicodedata
from collections.abc import Sequence
from typing import Any

from jssl.errors import UserError

Names = tuple[str, ...] | None


def class_names(source: Any) -> Names:
    """Names of the classes of a source in Unicode's NFC, by number.

    Returns:
        None where they are not known; () for a source without labels.

    Example:
        >>> from jssl.data.sources import photos_source
        >>> class_names(photos_source('test'))[:2]
        ('astronaut', 'chelsea')
    """
    names = getattr(source, "class_names", None)
    return None if names is None else normalized(names)


def normalized(names: Sequence[str]) -> tuple[str, ...]:
    """Names in Unicode's normal form NFC."""
    return tuple(unicodedata.normalize("NFC", str(name)) for name in names)


def difference(found: Names, expected: Names) -> str:
    """How the names of classes of two data sets differ, in words.

    Args:
        found: of one; None or () where there are no names to compare.
        expected: of the other.

    Returns:
        '' where they are the same or cannot be compared.

    Example:
        >>> difference(('cat', 'dog'), ('bird', 'cat', 'dog'))
        "2 classes for 3; class 0 is 'cat' in one and 'bird' in the other"
        >>> difference(('cat', 'dog'), None)
        ''
    """
    if not found or not expected or normalized(found) == normalized(expected):
        return ""
    pairs = zip(normalized(found), normalized(expected), strict=False)
    place = next((i for i, (one, other) in enumerate(pairs) if one != other), None)
    words = [f"{len(found)} classes for {len(expected)}"] if len(found) != len(expected) else []
    if place is not None:
        words.append(
            f"class {place} is '{found[place]}' in one and '{expected[place]}' in the other"
        )
    return "; ".join(words)


def check_same(found: Names, expected: Names, *, what: str, advice: str) -> None:
    """Refuses to compare labels by number where the names of the classes differ.

    Args:
        found: names of one; None or () where there are no names to compare.
        expected: names of the other.
        what: whose classes they are, 'The probe split and the test split'.
        advice: what to type.

    Raises:
        UserError: they differ.
    """
    if words := difference(found, expected):
        raise UserError(
            f"{what} have other classes: found {words}; expected the same names in the same "
            f"order, since labels are compared by number. {advice}"
        )
