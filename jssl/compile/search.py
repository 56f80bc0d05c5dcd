"""Searches for the largest batch that fits, with few compilations: each takes minutes."""

from collections.abc import Callable


def largest(fits: Callable[[int], tuple[int, int]], *, start: int, unit: int = 8) -> int | None:
    """Returns the largest multiple of `unit` that fits in memory.

    Memory grows nearly linearly with the batch: a line through the two sizes nearest to the limit
    gives the next guess, always strictly between the largest that fitted and the smallest that
    did not. Every size tried is compiled; the result is one that fitted.

    Args:
        fits: `batch -> (bytes needed, bytes usable)`; must not fall as the batch grows.
        start: first batch to try.
        unit: step between the sizes that are tried.

    Returns:
        The batch, or None when not even `unit` fits.

    Example:
        >>> largest(lambda b: (100 + 7 * b, 1000), start=32)
        128
    """
    known: dict[int, int] = {}
    good, bad, batch, bracketed = 0, None, max(unit, start // unit * unit), 0
    while bad is None or bad - good > unit:
        needed, usable = fits(batch)
        known[batch] = needed
        if needed <= usable:
            good = batch
        else:
            bad = batch
        guess = _extrapolate(known, usable) // unit * unit
        low, high = good + unit, (bad - unit) if bad else 4 * max(good, unit)
        batch = min(max(guess, low), high)
        if bad is not None:
            bracketed += 1
            if bracketed > 3:  # not linear: bisect
                batch = max(low, (good + bad) // 2 // unit * unit)
    return good or None


def _extrapolate(known: dict[int, int], usable: int) -> int:
    sizes = sorted(known, key=lambda b: abs(known[b] - usable))[:2]
    if len(sizes) == 1:
        return int(sizes[0] * usable / max(1, known[sizes[0]]))
    a, b = sizes
    slope = (known[b] - known[a]) / (b - a)
    return int(a + (usable - known[a]) / slope) if slope > 0 else 4 * max(known)
