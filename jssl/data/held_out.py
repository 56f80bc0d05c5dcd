"""Training examples that are held out, `config.data.held_out`."""

from typing import Any, NamedTuple

from jssl.data.subset import held_out_part, labelled_part
from jssl.errors import UserError


class Splits(NamedTuple):
    """The training data of a run.

    Attributes:
        train: the examples that are trained with.
        probe: labelled examples on which kNN and linear probes are fitted.
        held_out: labelled examples of neither; None without `config.data.held_out`.
    """

    train: Any
    probe: Any
    held_out: Any


def hold_out(train: Any, probe: Any, count: int) -> Splits:
    """Takes labelled examples out of the training data.

    They are taken from the train split, or from the probe split if the train split has no labels;
    the same share of every class, the same for every seed.

    Args:
        train: source of the train split.
        probe: source of the probe split; often the same examples.
        count: number of examples; 0 for none.

    Raises:
        UserError: no labels, or too few examples.

    Example:
        >>> from jssl.data.sources import photos_source
        >>> source = photos_source('train')
        >>> [len(part) for part in hold_out(source, source, 160)] + [len(source)]
        [3040, 3040, 160, 3200]
    """
    if not count:
        return Splits(train, probe, None)
    whole = train if train.num_classes >= 2 else probe
    if whole.num_classes < 2:
        raise UserError(
            f"--config.data.held_out={count} holds out labelled examples, but data set "
            f"'{train.name}' has no labels. Type --config.data.held_out=0."
        )
    rest = labelled_part(whole, fraction=1.0, held_out=count, seed=0)
    same = probe is whole or probe.fingerprint() == whole.fingerprint()
    return Splits(
        rest if whole is train else train,
        rest if same else probe,
        held_out_part(whole, count=count),
    )
