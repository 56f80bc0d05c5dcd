"""Sampling that is uniform over pseudo-labels, so that no cluster outweighs the others."""

import numpy as np


def uniform_over_clusters(
    assignments: np.ndarray, sampler_seed: int, seed: int, epoch: int, num_examples: int
) -> np.ndarray:
    """The order of one epoch, in which every cluster that has members comes equally often.

    With M examples and c clusters that are not empty, each gives s = floor(M / c) + 1 of its
    members: without repeats where it has more than s, else drawn with replacement. The c s
    indices are shuffled and the first M kept. By raw Philox bits, which numpy promises not to
    change from version to version.

    Args:
        assignments: int [M], the cluster of each example; below 0 for one that is never drawn.
        sampler_seed: of the clustering, a leaf of the method's state; >= 0.
        seed: of the run; >= 0.
        epoch: from 0.
        num_examples: M.

    Returns:
        int64 [M], indices of examples; all but the first two arguments bound, an `order` of
        `jssl.data.train_batches`.

    Raises:
        ValueError: assignments of another length, or none at all.

    Example:
        >>> clusters = np.array([0, 0, 0, 0, 0, 0, 1, -1])
        >>> drawn = clusters[uniform_over_clusters(clusters, 7, 0, 0, 8)]
        >>> sorted(np.bincount(drawn).tolist())  # 5 of each, two of the ten cut off
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
    # Cluster after cluster, each with its members in random order.
    bits = philox.random_raw(len(members))
    members = members[np.lexsort((bits, assignments[members]))]
    _, starts, sizes = np.unique(assignments[members], return_index=True, return_counts=True)
    share = num_examples // len(sizes) + 1
    place = np.broadcast_to(np.arange(share), (len(sizes), share))
    # The remainder favours small numbers by less than 2^-32.
    drawn = philox.random_raw(len(sizes) * share).reshape(place.shape)
    drawn = drawn % sizes[:, None].astype(np.uint64)
    place = np.where(sizes[:, None] > share, place, drawn.astype(np.int64))
    chosen = members[starts[:, None] + place].reshape(-1)
    shuffled = np.argsort(philox.random_raw(len(chosen)), kind="stable")
    return chosen[shuffled[:num_examples]]
