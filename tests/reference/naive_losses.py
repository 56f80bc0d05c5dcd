"""Losses written as loops of the papers' equations, in numpy and float64."""

import numpy as np


def nt_xent(z_a, z_b, temperature, normalize=True):
    """SimCLR, Algorithm 1, with its order of the 2N: z[2k] and z[2k+1] are a pair.

    Returns the loss of each of the N examples: the mean of l(2k, 2k+1) and l(2k+1, 2k).
    """
    n = len(z_a)
    z = np.empty((2 * n, z_a.shape[1]))
    z[0::2], z[1::2] = z_a, z_b

    def s(i, j):
        product = float(np.dot(z[i], z[j]))
        if normalize:
            product /= float(np.sqrt(np.dot(z[i], z[i])) * np.sqrt(np.dot(z[j], z[j])))
        return product

    def ell(i, j):
        denominator = 0.0
        for k in range(2 * n):
            if k != i:
                denominator += np.exp(s(i, k) / temperature)
        return -np.log(np.exp(s(i, j) / temperature) / denominator)

    return np.array([(ell(2 * k, 2 * k + 1) + ell(2 * k + 1, 2 * k)) / 2 for k in range(n)])


def contrastive_top1(z_a, z_b):
    """For each example, the mean over both directions of 'the positive is the most similar'."""
    a = z_a / np.linalg.norm(z_a, axis=1, keepdims=True)
    b = z_b / np.linalg.norm(z_b, axis=1, keepdims=True)
    found = []
    for i in range(len(a)):
        to_b = int(np.argmax([a[i] @ b[j] for j in range(len(b))]) == i)
        to_a = int(np.argmax([b[i] @ a[j] for j in range(len(a))]) == i)
        found.append((to_b + to_a) / 2)
    return np.array(found)


def official_simclr(hidden, temperature):
    """What objective.py of google-research/simclr computes on one device, in our words.

    The first half of `hidden` is view one. Each query meets [other view, own view]; its own
    place in its own view is pushed down by 1e9. The result is a scalar: the two views' mean
    cross entropies added, not averaged.
    """
    hidden = hidden / np.sqrt(np.maximum((hidden**2).sum(-1, keepdims=True), 1e-12))
    one, two = np.split(hidden, 2)
    n = len(one)
    total = 0.0
    for query, other in ((one, two), (two, one)):
        against_own = query @ query.T / temperature - 1e9 * np.eye(n)
        scores = np.concatenate([query @ other.T / temperature, against_own], axis=1)
        top = scores.max(axis=1, keepdims=True)
        log_softmax = scores - top - np.log(np.exp(scores - top).sum(axis=1, keepdims=True))
        total += -np.mean(log_softmax[np.arange(n), np.arange(n)])
    return total


def cross_entropy(logits, labels, smoothing):
    """-sum_k q(k) log p(k), with q = (1 - e) onehot + e / K, one example after the other."""
    losses = []
    for row, label in zip(logits, labels, strict=True):
        p = np.exp(row) / sum(np.exp(x) for x in row)
        q = [(1 - smoothing) * (k == label) + smoothing / len(row) for k in range(len(row))]
        losses.append(-sum(q[k] * np.log(p[k]) for k in range(len(row))))
    return np.array(losses)


def official_vicreg(z_a, z_b, invariance=25.0, variance=25.0, covariance=1.0):
    """What main_vicreg.py of facebookresearch/vicreg computes, in our words: the loss, s, v, c."""
    n, d = z_a.shape
    s = v = c = 0.0
    for i in range(n):
        for j in range(d):
            s += (z_a[i, j] - z_b[i, j]) ** 2 / (n * d)
    for z in (z_a, z_b):
        mean = [sum(z[i, j] for i in range(n)) / n for j in range(d)]
        for j in range(d):
            for k in range(d):
                products = [(z[i, j] - mean[j]) * (z[i, k] - mean[k]) for i in range(n)]
                entry = sum(products) / (n - 1)
                if j == k:
                    v += max(0.0, 1.0 - np.sqrt(entry + 1e-4)) / d / 2
                else:
                    c += entry**2 / d
    return invariance * s + variance * v + covariance * c, s, v, c
