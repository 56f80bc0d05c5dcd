"""Quality of a clustering: agreement with another one or with labels, and balance."""

import numpy as np


def nmi(a: np.ndarray, b: np.ndarray) -> float:
    """Computes the normalised mutual information of two partitions of the same examples.

        NMI(a; b) = 2 I(a; b) / (H(a) + H(b))

    The denominator is the arithmetic mean of the entropies, as in DeepCluster's code; equation 3
    of the paper has the geometric mean.

    Args:
        a: int [M], the group of each example.
        b: int [M].

    Returns:
        In [0, 1]: 0 for independent partitions, 1 for equal ones up to the names of groups. It is
        above 0 by chance, more so with more groups.

    Raises:
        ValueError: wrong shapes, or no examples.

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
    """Computes DeepCluster's statistics: balance, stability, and agreement with labels.

    Args:
        assignments: int [M], the cluster of each example; examples below 0 have none and are left
            out.
        num_clusters: k.
        previous: int [M], the previous assignments.
        labels: int [M].

    Returns:
        `entropy` of the sizes in nats, ln k if all are equal; `empty`, the number of clusters
        without members; `largest_share`, the fraction of examples in the largest one, 1 / k if all
        are equal; `nmi_previous` and `nmi_labels`, each if given and some example has both.

    Raises:
        ValueError: no example has a cluster.

    Example:
        >>> report = cluster_report(np.array([0, 0, 1, 1]), num_clusters=3, labels=[5, 5, 7, 8])
        >>> {name: round(value, 4) for name, value in report.items()}
        {'entropy': 0.6931, 'empty': 1.0, 'largest_share': 0.5, 'nmi_labels': 0.8}
    """
    assignments = np.asarray(assignments)
    assigned = assignments >= 0
    if not assigned.any():
        raise ValueError("cluster_report expects some assignments of 0 or more, found none.")
    sizes = np.bincount(assignments[assigned], minlength=num_clusters)
    shares = sizes[sizes > 0] / sizes.sum()
    report = {
        "entropy": float(-np.sum(shares * np.log(shares))),
        "empty": float(np.sum(sizes == 0)),
        "largest_share": float(shares.max()),
    }
    for name, other in (("nmi_previous", previous), ("nmi_labels", labels)):
        if other is None:
            continue
        both = assigned & (np.asarray(other) >= 0)
        if both.any():
            report[name] = nmi(assignments[both], np.asarray(other)[both])
    return report
