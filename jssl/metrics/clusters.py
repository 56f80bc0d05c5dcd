"""How good a clustering is: its agreement with another one or with labels, and its balance."""

import numpy as np


def nmi(a: np.ndarray, b: np.ndarray) -> float:
    """Normalised mutual information of two partitions of the same examples.

        NMI(a; b) = 2 I(a; b) / (H(a) + H(b))

    the arithmetic mean of the entropies below, as DeepCluster's code has it; its paper's equation
    3 has the geometric one.

    Args:
        a: int [M], the group of each example.
        b: int [M].

    Returns:
        In [0, 1]: 0 for independent partitions, 1 for equal ones whatever the groups' names. By
        chance alone it is above 0, the more so the more groups there are.

    Raises:
        ValueError: other shapes, or no examples.

    Example:
        >>> round(nmi(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2])), 4)
        0.8

    Reference:
        scikit-learn, `normalized_mutual_info_score`, average_method 'arithmetic'.
    """
    from sklearn.metrics import normalized_mutual_info_score  # takes a second: only when needed

    if np.ndim(a) != 1 or np.shape(a) != np.shape(b) or not len(a):
        raise ValueError(f"nmi expects two int [M], found {np.shape(a)} and {np.shape(b)}.")
    return float(normalized_mutual_info_score(a, b, average_method="arithmetic"))


def cluster_report(
    assignments: np.ndarray,
    *,
    num_clusters: int,
    previous: np.ndarray | None = None,
    labels: np.ndarray | None = None,
) -> dict[str, float]:
    """What DeepCluster watches: is the clustering balanced, does it settle, does it mean anything?

    Args:
        assignments: int [M], the cluster of each example; below 0 for one that has none, which
            is left out.
        num_clusters: k.
        previous: int [M], the assignments before.
        labels: int [M].

    Returns:
        `entropy` of the sizes in nats, ln k when all are equal; `empty`, how many clusters have
        no member; `largest_share`, of the examples in the largest one, 1 / k when all are equal;
        `nmi_previous` and `nmi_labels`, each where it was given and some example has both.

    Raises:
        ValueError: no example has a cluster.

    Example:
        >>> report = cluster_report(np.array([0, 0, 1, 1]), num_clusters=3, labels=[5, 5, 7, 8])
        >>> {name: round(value, 4) for name, value in report.items()}
        {'entropy': 0.6931, 'empty': 1.0, 'largest_share': 0.5, 'nmi_labels': 0.8}
    """
    assignments = np.asarray(assignments)
    has = assignments >= 0
    if not has.any():
        raise ValueError("cluster_report expects some assignments of 0 or more, found none.")
    sizes = np.bincount(assignments[has], minlength=num_clusters)
    shares = sizes[sizes > 0] / sizes.sum()
    report = {
        "entropy": float(-np.sum(shares * np.log(shares))),
        "empty": float(np.sum(sizes == 0)),
        "largest_share": float(shares.max()),
    }
    for name, other in (("nmi_previous", previous), ("nmi_labels", labels)):
        if other is None:
            continue
        both = has & (np.asarray(other) >= 0)
        if both.any():
            report[name] = nmi(assignments[both], np.asarray(other)[both])
    return report
