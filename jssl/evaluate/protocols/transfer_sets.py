"""The twelve data sets of the transfer tables of SimCLR and BYOL, after Kornblith et al."""

from typing import NamedTuple

from jssl.errors import UserError, nearest
from jssl.third_party import unchanged

with unchanged():
    pass

TOP1, PER_CLASS, MAP11 = "top-1", "mean per class", "11-point mAP"
ALL12 = "all12"


class TransferSet(NamedTuple):
    """The protocol of a data set.

    Attributes:
        metric: top-1, mean per class or 11-point mAP.
        num_classes: K.
        sizes: numbers of train, validation and test examples.
        train, validation, test: splits of the source. '' for validation: its examples are drawn
            from `train`.
        complete: False if images are known to be lost; else other sizes are an error.
    """

    metric: str
    num_classes: int
    sizes: tuple[int, int, int]
    train: str = "train"
    validation: str = ""
    test: str = "test"
    complete: bool = True


# Sizes, metrics and splits: BYOL, table 10. SUN397 and DTD use the first official split.
# Caltech-101 is TFDS's draw of 30 per class, with the background as a class: one of the 30 files
# there is not a picture, so that it has 509 and 6,085 where the table has 510 and 6,084.
# Birdsnap is a list of URLs, many of which no longer work.
TRANSFER_SETS: dict[str, TransferSet] = {
    "food101": TransferSet(TOP1, 101, (68_175, 7_575, 25_250), test="validation"),
    "cifar10": TransferSet(TOP1, 10, (45_000, 5_000, 10_000)),
    "cifar100": TransferSet(TOP1, 100, (44_933, 5_067, 10_000)),
    "birdsnap": TransferSet(TOP1, 500, (42_405, 4_981, 2_443), complete=False),
    "sun397": TransferSet(TOP1, 397, (15_880, 3_970, 19_850)),
    "cars": TransferSet(TOP1, 196, (6_494, 1_650, 8_041)),
    "fgvc_aircraft": TransferSet(PER_CLASS, 100, (3_334, 3_333, 3_333), validation="val"),
    "voc2007": TransferSet(MAP11, 20, (2_501, 2_510, 4_952), validation="validation"),
    "dtd": TransferSet(TOP1, 47, (1_880, 1_880, 1_880), validation="validation"),
    "pets": TransferSet(PER_CLASS, 37, (2_940, 740, 3_669)),
    "caltech101": TransferSet(PER_CLASS, 102, (2_550, 509, 6_085)),
    "flowers": TransferSet(PER_CLASS, 102, (1_020, 1_020, 6_149), validation="validation"),
}


def transfer_names(source: str | None) -> list[str]:
    """Returns the data sets in `--source`: one, several separated by commas, or all12.

    Raises:
        UserError: none, or an unknown one.

    Example:
        >>> transfer_names('pets,dtd'), len(transfer_names('all12'))
        (['pets', 'dtd'], 12)
    """
    names = list(TRANSFER_SETS) if source == ALL12 else [n for n in (source or "").split(",") if n]
    for name in names:
        if name not in TRANSFER_SETS:
            raise UserError(
                f"'{name}' is none of the transfer data sets: "
                f"{nearest(name, [*TRANSFER_SETS, ALL12])}."
            )
    if not names:
        raise UserError(
            "The transfer protocol uses other data than the run's; no --source was given. "
            f"Type --source=pets, several separated by commas, or --source={ALL12}. "
            f"Choices: {', '.join(TRANSFER_SETS)}."
        )
    return names


def check_sizes(name: str, found: tuple[int, ...], num_classes: int) -> tuple[int, int, int]:
    """Checks the sizes of a data set against the table, and returns the sizes to use.

    Args:
        name: of `TRANSFER_SETS`.
        found: examples in train, validation and test; train and test if validation is drawn.
        num_classes: of the source.

    Returns:
        Numbers of train, validation and test examples. For an incomplete set, the validation
        examples are the same fraction of those that exist.

    Raises:
        UserError: wrong number of examples or classes.

    Example:
        >>> check_sizes('dtd', (1880, 1880, 1880), 47)
        (1880, 1880, 1880)
        >>> check_sizes('birdsnap', (4000, 200), 500)
        (3580, 420, 200)
    """
    known = TRANSFER_SETS[name]
    train, validation, test = known.sizes
    expected = (train, validation, test) if len(found) == 3 else (train + validation, test)
    if num_classes != known.num_classes:
        raise UserError(
            f"Data set '{name}' has {num_classes} classes, expected {known.num_classes}."
        )
    lost = not known.complete and all(f <= e for f, e in zip(found, expected, strict=True))
    if found != expected and not lost:
        raise UserError(
            f"Data set '{name}' has {' + '.join(map(str, found))} examples, expected "
            f"{' + '.join(map(str, expected))}: it is another version, or incomplete. "
            f"Prepare it again: python -m jssl.data.prepare {name}"
        )
    if len(found) == 3:
        return found
    held_out = round(found[0] * validation / (train + validation))
    return found[0] - held_out, held_out, found[1]
