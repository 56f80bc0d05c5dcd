"""Sampling uniformly over pseudo-labels, so that all clusters have equal weight."""

import numpy as np


def uniform_over_clusters(
    assignments: np.ndarray, sampler_seed: int, seed: int, epoch: int, num_examples: int
) -> np.ndarray:
    """Returns the order of one epoch, with equally many examples from each non-empty cluster.

    With M examples and c non-empty clusters, s = floor(M / c) + 1 members of each are drawn:
    without replacement if it has more than s, else with. The c s indices are shuffled and the first
    M kept. Uses raw Philox bits, which numpy keeps stable over versions.

    Args:
        assignments: int [M], the cluster of each example; below 0 to exclude it.
        sampler_seed: of the clustering, a leaf of the method's state; >= 0.
        seed: of the run; >= 0.
        epoch: from 0.
        num_examples: M.

    Returns:
        int64 [M], indices of examples; with the first two arguments bound, an `order` of
        `jssl.data.train_batches`.

    Raises:
        ValueError: assignments of another length, or all excluded.

    Example:
        >>> clusters = np.array([0, 0, 0, 0, 0, 0, 1, -1])
        >>> drawn = clusters[uniform_over_clusters(clusters, 7, 0, 0, 8)]
        >>> sorted(np.bincount(drawn).tolist())  # 5 of each, two of the ten dropped
        [3, 5]

    Reference:
        Caron et al., ECCV 2018, https://arxiv.org/abs/1807.05520, section 3.2; official code
        https://github.com/facebookresearch/deepcluster, util.py, UnifLabelSampler.
    """
    assignments = np.asarray(assignments)
    members = np.flatnonzero(assignments >= 0)
    if assignments.shape != (num_examples,) or not len(members):
        raise ValueError(
            f"assignments must be [M] with M={num_examples}, some of them 0 or more; found "
            f"{list(assignments.shape)} with {len(members)} of them."
        )
    philox = np.random.Philox(np.random.SeedSequence([sampler_seed, seed, epoch]))
    # Sorted by cluster, in random order within each.
    bits = philox.random_raw(len(members))
    members = members[np.lexsort((bits, assignments[members]))]
    _, starts, sizes = np.unique(assignments[members], return_index=True, return_counts=True)
    share = num_examples // len(sizes) + 1
    place = np.broadcast_to(np.arange(share), (len(sizes), share))
    # The bias of the modulo is below 2^-32.
    drawn = philox.random_raw(len(sizes) * share).reshape(place.shape)
    drawn = drawn % sizes[:, None].astype(np.uint64)
    place = np.where(sizes[:, None] > share, place, drawn.astype(np.int64))
    chosen = members[starts[:, None] + place].reshape(-1)
    shuffled = np.argsort(philox.random_raw(len(chosen)), kind="stable")
    return chosen[shuffled[:num_examples]]


def shuffled_members(member: np.ndarray, seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """Returns the order of one epoch over some of the examples: each once, however it is clustered.

    Where some are left out, the first of the order come again at its end, so that an epoch keeps
    its length.

    Args:
        member: bool [M], whether an example takes part.
        seed: of the run; >= 0.
        epoch: from 0.
        num_examples: M.

    Returns:
        int64 [M], indices of examples; with the first argument bound, an `order` of
        `jssl.data.train_batches`.

    Raises:
        ValueError: `member` of another length, or all False.

    Example:
        >>> drawn = shuffled_members(np.array([True, True, False]), 0, 0, 3)
        >>> sorted(set(drawn.tolist())), len(drawn)
        ([0, 1], 3)
    """
    members = np.flatnonzero(member)
    if np.shape(member) != (num_examples,) or not len(members):
        raise ValueError(
            f"member must be bool [M] with M={num_examples}, some of them True; found "
            f"{list(np.shape(member))} with {len(members)} of them."
        )
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(len(members))
    return np.resize(members[np.argsort(bits, kind="stable")], num_examples)
