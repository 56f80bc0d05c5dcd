"""What jssl raises when the user, and not the library, can mend it."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake at the edge: says what was found, what was expected and what to type.

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
    """The disk did not take what a run wrote: it is full, read-only or failing."""


class NotWrittenError(SystemExit):
    """What was computed is shown, but files of it could not be written: the status is 1.

    Args:
        files: each with the reason.
    """

    def __init__(self, files: Iterable[str]):
        self.files = list(files)
        super().__init__(f"jssl: not written: {', '.join(self.files)}.")


def nearest(found: str, choices: Iterable[str]) -> str:
    """Names the choice most like `found`, for the end of an error message.

    Args:
        found: what the user typed.
        choices: what would have been accepted.

    Returns:
        `"did you mean 'x'? Choices: a, x"`, or only the choices when nothing is near.

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
