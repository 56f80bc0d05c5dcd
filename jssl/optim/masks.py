"""Regex rules for weight decay and layer-wise adaptation, which must cover every parameter.

A rule is a pair (regex, group). The regex is searched in the parameter's path, joined by '/', as
'encoder/bn1/scale'; the first match claims the parameter. A parameter that no rule claims and a
rule that claims no parameter are both errors, so that new parameters and misspelt rules are
noticed.
"""

import re
from collections.abc import Callable, Sequence
from typing import Literal

import jax

from jssl.errors import UserError, nearest
from jssl.types import PyTree

Rules = Sequence[tuple[str, str]]

# Each group: whether to apply weight decay, and LARS's or LAMB's layer-wise adaptation.
GROUPS = {
    "none": {"decay": False, "adapt": False},
    "decay": {"decay": True, "adapt": False},
    "adapt": {"decay": False, "adapt": True},
    "decay+adapt": {"decay": True, "adapt": True},
}

# SimCLR, BYOL, MoCo v3: neither for normalisation and biases. There is no catch-all rule:
# parameters of other names (a token, a position embedding) need their own.
EXCLUDE_NORM_AND_BIAS: Rules = (
    (r"(^|/)(scale|bias)$", "none"),
    (r"(^|/)kernel$", "decay+adapt"),
)
# DeiT, BEiT: neither for the class token, position embeddings, LayerScale and the biases of queries
# and values; both for the distillation token, the mask token and relative-position tables.
TRANSFORMER: Rules = (
    (r"(^|/)(scale|bias|[qv]_bias|gamma[12]|cls_token|pos_embed)$", "none"),
    (r"(^|/)(kernel|dist_token|mask_token|relative_table)$", "decay+adapt"),
)
# MoCo v1 and v2, CMC, DeepCluster: every parameter decays.
EVERYTHING: Rules = ((r"", "decay+adapt"),)

_LISTED = 30  # names in an error message


def groups(params: PyTree, *, rules: Rules) -> dict[str, str]:
    """Returns the group of every parameter, by the first rule that matches its path.

    Args:
        params: pytree of arrays; only its structure is read.
        rules: (regex, group) pairs, in order of precedence.

    Returns:
        `{'encoder/conv1/kernel': 'decay+adapt', ...}` in the order of the tree's leaves.

    Raises:
        UserError: unknown group or invalid regex; a parameter without a rule; a rule that matches
            no parameter, or only those claimed by earlier rules.

    Example:
        >>> params = {'conv': {'kernel': 0.0}, 'bn': {'scale': 1.0, 'bias': 0.0}}
        >>> groups(params, rules=EXCLUDE_NORM_AND_BIAS)
        {'bn/bias': 'none', 'bn/scale': 'none', 'conv/kernel': 'decay+adapt'}

    Reference:
        Full coverage: https://github.com/google-research/big_vision, utils.py. Exclusions:
        https://github.com/google-research/simclr, model.py.
    """
    compiled = _parse(rules)
    names = parameter_names(params)
    claimed: dict[str, int] = {}
    for name in names:
        matches = (i for i, (regex, _) in enumerate(compiled) if regex.search(name))
        claimed[name] = next(matches, -1)

    unclaimed = [name for name, rule in claimed.items() if rule < 0]
    if unclaimed:
        raise UserError(
            f"No rule of optim.rules {_regexes(rules)} claims {len(unclaimed)} of {len(names)} "
            f"parameters: {_some(unclaimed)}. Each needs one: add a rule (regex, group), or "
            f"('', 'decay+adapt') at the end for all others. Groups: {', '.join(GROUPS)}."
        )
    for i, (regex, _) in enumerate(compiled):
        if i in claimed.values():
            continue
        if any(regex.search(name) for name in names):
            raise UserError(
                f"Rule '{regex.pattern}' of optim.rules claims no parameter, because earlier "
                f"rules claim all that it matches. Move it before them or remove it."
            )
        raise UserError(
            f"Rule '{regex.pattern}' of optim.rules matches no parameter. Correct it or remove "
            f"it. The parameters are: {_some(names)}."
        )
    return {name: compiled[rule][1] for name, rule in claimed.items()}


def mask(rules: Rules, *, what: Literal["decay", "adapt"]) -> Callable[[PyTree], PyTree]:
    """Returns the function from parameters to a tree of bools, for optax masks.

    Raises:
        UserError: unknown groups or invalid regexes; from the function, as `groups`.

    Example:
        >>> params = {'kernel': 0.0, 'bias': 0.0}
        >>> mask(EXCLUDE_NORM_AND_BIAS, what='decay')(params)
        {'bias': False, 'kernel': True}
    """

    _parse(rules)

    def mask_of(params: PyTree) -> PyTree:
        chosen = [GROUPS[group][what] for group in groups(params, rules=rules).values()]
        return jax.tree.unflatten(jax.tree.structure(params), chosen)

    return mask_of


def parameter_names(params: PyTree) -> list[str]:
    """Returns the '/'-joined path of every leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]


def _parse(rules: Rules) -> list[tuple[re.Pattern[str], str]]:
    parsed = []
    for regex, group in rules:
        if group not in GROUPS:
            raise UserError(
                f"Rule '{regex}' of optim.rules has the unknown group '{group}': "
                f"{nearest(group, GROUPS)}."
            )
        try:
            parsed.append((re.compile(regex), group))
        except re.error as error:
            raise UserError(
                f"Rule '{regex}' of optim.rules is no regular expression: {error}."
            ) from None
    return parsed


def _regexes(rules: Rules) -> str:
    return "[" + ", ".join(f"'{regex}'" for regex, _ in rules) + "]"


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
