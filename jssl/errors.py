"""Errors that the user can correct."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the input: says what was found, what was expected and what to type.

    The commands print its message without a traceback and exit with status 2.
    """


class NotFiniteError(UserError):
    """A loss, a gradient, a network or its features are not finite.

    Args:
        found: what is not finite.
        advice: what to type.
    """

    def __init__(self, found: str, advice: str = ""):
        self.found = found
        super().__init__(f"{found} {advice}".strip())


class WriteError(UserError):
    """A run could not write to the disk: it is full, read-only or failing."""


class NotWrittenError(SystemExit):
    """The results were printed, but some files could not be written: exit status 1.

    Args:
        files: the files, each with the reason.
    """

    def __init__(self, files: Iterable[str]):
        self.files = list(files)
        super().__init__(f"jssl: not written: {', '.join(self.files)}.")


def nearest(found: str, choices: Iterable[str]) -> str:
    """Names the choice most similar to `found`, for the end of an error message.

    Args:
        found: what the user typed.
        choices: the accepted values.

    Returns:
        `"did you mean 'x'? Choices: a, x"`, or only the choices when none is similar.

    Example:
        >>> nearest('simlcr', ['byol', 'simclr'])
        "did you mean 'simclr'? Choices: byol, simclr"
        >>> nearest('zzz', ['byol', 'simclr'])
        'Choices: byol, simclr'
    """
    choices = sorted(choices)
    close = difflib.get_close_matches(str(found), choices, n=1, cutoff=0.5)
    listed = f"Choices: {', '.join(choices)}"
    return f"did you mean '{close[0]}'? {listed}" if close else listed
