"""Rules against the official regex on a ResNet's names, counted by hand; full coverage."""

import re

import jax
import numpy as np
import pytest

from jssl import optim
from jssl.errors import UserError

SIMCLR_OFFICIAL = r"batch_normalization|bias|head_supervised"  # searched in TensorFlow's names
WITH_HEAD = (("^head_supervised/", "none"), *optim.EXCLUDE_NORM_AND_BIAS)


def resnet18_and_heads():
    """(TensorFlow's name, ours) of SimCLR's ResNet-18 with both heads.

    17 convolutions of 3x3 or the stem and 4 projection shortcuts, each with a BN; a head of two
    dense layers without bias, the last BN without beta; the supervised head.
    """
    pairs, convs = [], ["stem"]
    for stage in range(4):
        convs += [f"stage{stage}_block0/shortcut"]
        convs += [f"stage{stage}_block{block}/conv{i}" for block in (0, 1) for i in (1, 2)]
    for k, conv in enumerate(convs):
        tf = f"base_model/{{}}_{k}" if k else "base_model/{}"
        pairs += [(tf.format("conv2d") + "/kernel", f"encoder/{conv}/kernel")]
        for ours, theirs in (("scale", "gamma"), ("bias", "beta")):
            name = tf.format("batch_normalization") + f"/{theirs}"
            pairs += [(name, f"encoder/{conv}_bn/{ours}")]
    for i in (0, 1):
        tf, ours = f"head_contrastive/nl_{i}", f"projector/dense{i}"
        pairs += [(f"{tf}/dense/kernel", f"{ours}/kernel")]
        pairs += [(f"{tf}/batch_normalization/gamma", f"{ours}_bn/scale")]
    pairs += [("head_contrastive/nl_0/batch_normalization/beta", "projector/dense0_bn/bias")]
    tf = "head_supervised/linear_layer/dense"
    return pairs + [(f"{tf}/{leaf}", f"head_supervised/{leaf}") for leaf in ("kernel", "bias")]


def tree(names):
    """A nested dict with a scalar at each path."""
    root = {}
    for name in names:
        *folders, leaf = name.split("/")
        node = root
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = np.float32(0)
    return root


def test_same_decision_as_the_official_regex_on_every_parameter():
    pairs = resnet18_and_heads()
    got = optim.groups(tree(ours for _, ours in pairs), rules=WITH_HEAD)
    assert len(got) == len(pairs) == 21 * 3 + 5 + 2
    for official, ours in pairs:
        excluded = re.search(SIMCLR_OFFICIAL, official) is not None
        assert got[ours] == ("none" if excluded else "decay+adapt"), (official, ours)


def test_counts_by_hand():
    """Taken: 21 convolutions and 2 dense. Left: 42 + 3 of BN, 2 of the supervised head."""
    params = tree(ours for _, ours in resnet18_and_heads())
    for what in ("decay", "adapt"):
        chosen = jax.tree.leaves(optim.mask(WITH_HEAD, what=what)(params))
        assert (sum(chosen), len(chosen) - sum(chosen)) == (23, 47)


def test_without_its_rule_the_supervised_kernel_would_decay():
    params = tree(ours for _, ours in resnet18_and_heads())
    plain = optim.groups(params, rules=optim.EXCLUDE_NORM_AND_BIAS)
    assert plain["head_supervised/kernel"] == "decay+adapt"
    assert plain["head_supervised/bias"] == "none"


def test_everything_decays_under_the_empty_regex():
    params = tree(ours for _, ours in resnet18_and_heads())
    assert set(optim.groups(params, rules=optim.EVERYTHING).values()) == {"decay+adapt"}


def test_the_mask_has_the_structure_of_the_parameters_and_its_order():
    params = {"b": {"kernel": 0.0}, "a": [{"bias": 0.0}, {"kernel": 0.0}]}
    mask = optim.mask(optim.EXCLUDE_NORM_AND_BIAS, what="decay")(params)
    assert mask == {"b": {"kernel": True}, "a": [{"bias": False}, {"kernel": True}]}


def test_first_rule_wins_and_groups_are_independent():
    rules = (("fc/bias", "adapt"), ("bias", "decay"), ("", "none"))
    params = tree(["conv/bias", "fc/bias", "fc/kernel"])
    assert list(optim.groups(params, rules=rules).values()) == ["decay", "adapt", "none"]
    assert jax.tree.leaves(optim.mask(rules, what="decay")(params)) == [True, False, False]
    assert jax.tree.leaves(optim.mask(rules, what="adapt")(params)) == [False, True, False]


def test_a_parameter_without_a_rule_is_named():
    params = tree(["encoder/kernel", "encoder/bias", "encoder/cls_token"])
    with pytest.raises(UserError, match=r"claims 1 of 3 parameters: encoder/cls_token\."):
        optim.groups(params, rules=optim.EXCLUDE_NORM_AND_BIAS)


def test_a_rule_without_a_parameter_is_named_with_the_parameters():
    params = tree(["conv/kernel", "bn/scale"])
    with pytest.raises(UserError, match=r"'batchnorm' .* no parameter.* bn/scale, conv/kernel"):
        optim.groups(params, rules=(("batchnorm", "none"), ("", "decay+adapt")))


def test_shadowed_rules_are_named():
    with pytest.raises(UserError, match="'bias' .* earlier rules claim all"):
        optim.groups(tree(["bias", "kernel"]), rules=(("", "decay"), ("bias", "none")))


def test_a_long_list_of_names_is_cut():
    params = tree(f"layer{i:03}/w" for i in range(100))
    with pytest.raises(UserError, match=r"layer029/w and 70 more"):
        optim.groups(params, rules=(("kernel", "none"), ("", "decay")))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (("kernel", "decai"), "unknown group 'decai': did you mean 'decay'"),
        (("kernel(", "decay"), r"'kernel\(' of optim.rules is no regular expression"),
    ],
)
def test_invalid_rules_are_refused_without_parameters(rule, message):
    with pytest.raises(UserError, match=message):
        optim.mask([rule], what="decay")
