"""Usage of a tokenizer's codes, to detect the collapse of a discrete VAE."""

from collections.abc import Mapping

import numpy as np

from jssl.errors import UserError


def codebook_report(tokens: np.ndarray, *, vocabulary: int) -> dict[str, float]:
    """Computes statistics of code usage.

    Args:
        tokens: int [...] in [0, vocabulary).
        vocabulary: K.

    Returns:
        `used`, the number of different codes; `perplexity`, exp of the entropy of their
        frequencies, from 1 (one code) to K (uniform); `top_share`, the frequency of the most
        frequent code.

    Raises:
        UserError: no tokens, or some outside the vocabulary.

    Example:
        >>> codebook_report(np.array([0, 0, 3, 3]), vocabulary=8)
        {'used': 2.0, 'perplexity': 2.0, 'top_share': 0.5}
    """
    tokens = np.asarray(tokens).reshape(-1)
    if not len(tokens) or tokens.min() < 0 or tokens.max() >= vocabulary:
        raise UserError(f"Expected tokens in [0, {vocabulary}), found {tokens[:10]}.")
    counts = np.bincount(tokens, minlength=vocabulary)
    shares = counts[counts > 0] / len(tokens)
    perplexity = np.exp(-np.sum(shares * np.log(shares)))
    return {
        "used": float(len(shares)),
        "perplexity": round(float(perplexity), 6),
        "top_share": float(shares.max()),
    }


def codebook_warnings(report: Mapping[str, float], *, min_perplexity: float) -> list[str]:
    """Returns a warning if the codes have collapsed, [] otherwise.

    Args:
        report: from `codebook_report`.
        min_perplexity: threshold.

    Example:
        >>> report = codebook_report(np.zeros(9, int), vocabulary=8)
        >>> print(codebook_warnings(report, min_perplexity=2.0)[0][:62])
        collapse: the codes have a perplexity of 1, below the threshol
    """
    if report["perplexity"] >= min_perplexity:
        return []
    return [
        f"collapse: the codes have a perplexity of {report['perplexity']:.3g}, below the threshold "
        f"{min_perplexity:g}: {report['used']:.0f} are in use, one of them in "
        f"{100 * report['top_share']:.0f} % of all positions. Check dvae.beta (its KL may be "
        "too large), the temperature, the learning rate and the batch size."
    ]
