"""Tables as plain text: aligned columns within a width, and numbered footnotes."""

import io
import textwrap
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 100  # columns


def plain_table(
    columns: Mapping[str, str],
    rows: Sequence[Sequence[str]],
    *,
    notes: Sequence[str] = (),
    width: int = WIDTH,
) -> str:
    """Formats rows as aligned plain text; what does not fit a column is folded.

    Args:
        columns: name -> 'left' or 'right'.
        rows: cells, in the order of the columns.
        notes: footnotes, printed as [1], [2], ...
        width: of the text, in columns.

    Returns:
        Lines without a final newline.

    Example:
        >>> print(plain_table({'run': 'left', '%': 'right'}, [['a', '9.5'], ['b', '10.0']],
        ...                   notes=['kNN']))
        run     %
        a     9.5
        b    10.0
        <BLANKLINE>
        [1] kNN
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    for name, justify in columns.items():
        side = "right" if justify == "right" else "left"
        table.add_column(Text(name), justify=side, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*map(Text, row))
    text = io.StringIO()
    console = Console(file=text, width=width, color_system=None, legacy_windows=False)
    console.print(table)
    lines = [line.rstrip() for line in text.getvalue().rstrip().splitlines()]
    lines += [""] if notes else []
    for number, note in enumerate(notes, 1):
        mark = f"[{number}] "
        lines += textwrap.wrap(
            note,
            width,
            initial_indent=mark,
            subsequent_indent=" " * len(mark),
            break_on_hyphens=False,
        )
    return "\n".join(lines)
