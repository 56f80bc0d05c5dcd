"""Robustness as published: mCE of ImageNet-C, mFR and top-5 distance of ImageNet-P."""

from collections.abc import Iterable, Mapping

import numpy as np

from jssl.errors import UserError, nearest

# Top-1 errors of AlexNet on ImageNet-C, severity 1 to 5.
ALEXNET_C = {
    "gaussian_noise": (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
    "shot_noise": (0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
    "impulse_noise": (0.78374, 0.89808, 0.94870, 0.98720, 0.99548),
    "defocus_blur": (0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
    "glass_blur": (0.64308, 0.75054, 0.88806, 0.91622, 0.93344),
    "motion_blur": (0.58430, 0.70048, 0.82108, 0.89750, 0.92638),
    "zoom_blur": (0.70008, 0.76992, 0.80784, 0.84198, 0.87198),
    "snow": (0.71726, 0.88392, 0.86468, 0.91870, 0.94952),
    "frost": (0.61390, 0.79734, 0.88790, 0.89942, 0.93430),
    "fog": (0.67474, 0.76050, 0.84378, 0.87260, 0.94500),
    "brightness": (0.45140, 0.48502, 0.54048, 0.62166, 0.72440),
    "contrast": (0.64548, 0.76150, 0.88874, 0.97760, 0.99270),
    "elastic_transform": (0.52596, 0.70116, 0.55686, 0.64076, 0.80554),
    "pixelate": (0.52218, 0.54620, 0.73728, 0.87092, 0.91262),
    "jpeg_compression": (0.51002, 0.54718, 0.57294, 0.65458, 0.74778),
}
# Published with the 15, for validation; not part of the mCE.
EXTRA_C = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
# Top-1 error of AlexNet on the clean validation set, with the weights of torchvision.
ALEXNET_CLEAN = 0.43478

# Flip probabilities of AlexNet on ImageNet-P, difficulty 1.
ALEXNET_P = {
    "gaussian_noise": 0.23653,
    "shot_noise": 0.30062,
    "motion_blur": 0.09297,
    "zoom_blur": 0.05942,
    "snow": 0.11928,
    "brightness": 0.04889,
    "translate": 0.11007,
    "rotate": 0.13104,
    "tilt": 0.07050,
    "scale": 0.23531,
}
EXTRA_P = ("spatter", "speckle_noise", "gaussian_blur", "shear")


def mce(errors: Mapping[str, float | np.ndarray]) -> float:
    """Computes the mean corruption error on ImageNet-C, in percent of AlexNet's.

        CE_c = sum_s E_sc / sum_s E^AlexNet_sc,    mCE = 100 mean_c CE_c

    Args:
        errors: name of the corruption -> top-1 errors in [0, 1], float [5] of severity 1 to 5 or
            their mean. All 15 corruptions; the four extra ones are allowed and ignored.

    Returns:
        The mCE: 100 is as good as AlexNet, lower is better.

    Raises:
        UserError: an unknown corruption.
        ValueError: a corruption without errors, errors in percent, wrong shapes.

    Example:
        >>> mce(ALEXNET_C)
        100.0
        >>> mce({name: np.mean(values) / 2 for name, values in ALEXNET_C.items()})
        50.0

    Reference:
        Hendrycks and Dietterich, ICLR 2019, https://arxiv.org/abs/1903.12261, section 4.2. The
        published images are 224 x 224: nothing is resized. The official test.py prints the mean
        error of 19 corruptions instead.
    """
    means = _means("mce", errors, ALEXNET_C, EXTRA_C, (5,))
    return _percent(means[c] / float(np.mean(ALEXNET_C[c])) for c in ALEXNET_C)


def relative_mce(
    errors: Mapping[str, float | np.ndarray],
    *,
    clean_error: float,
    alexnet_clean_error: float = ALEXNET_CLEAN,
) -> float:
    """Computes the relative mCE: the increase of the error, in percent of AlexNet's increase.

        Relative CE_c = sum_s (E_sc - E_clean) / sum_s (E^AlexNet_sc - E^AlexNet_clean)

    Args:
        errors: as in `mce`.
        clean_error: top-1 error in [0, 1] of the same network on the clean validation set.
        alexnet_clean_error: the same for AlexNet.

    Returns:
        The mean over the 15 corruptions: below 100 if the increase is smaller than AlexNet's.

    Raises:
        UserError: an unknown corruption.
        ValueError: as `mce`, or a clean error outside [0, 1].

    Example:
        >>> relative_mce(ALEXNET_C, clean_error=ALEXNET_CLEAN)
        100.0

    Reference:
        Hendrycks and Dietterich, ICLR 2019, https://arxiv.org/abs/1903.12261, section 4.2.
    """
    for value in (clean_error, alexnet_clean_error):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"relative_mce expects clean errors in [0, 1], found {value}.")
    means = _means("relative_mce", errors, ALEXNET_C, EXTRA_C, (5,))
    return _percent(
        (means[c] - clean_error) / (float(np.mean(ALEXNET_C[c])) - alexnet_clean_error)
        for c in ALEXNET_C
    )


def flip_rate(predictions: np.ndarray, *, noise: bool, difficulty: int = 1) -> float:
    """Computes how often the predicted class changes within the sequences of ImageNet-P.

    Args:
        predictions: int [S,T], the predicted class of each of T frames of S sequences.
        noise: compares every frame with the first one, as for gaussian, shot and speckle noise,
            whose frames have no order; otherwise with the one `difficulty` before.
        difficulty: 1 (the standard), 2 or 3 frames apart. For noise it has no effect here, as each
            difficulty is another folder.

    Returns:
        The flip probability in [0, 1].

    Raises:
        ValueError: not [S,T], or too few frames.

    Example:
        >>> flip_rate(np.array([[0, 1, 1, 1]]), noise=True)
        1.0
        >>> round(flip_rate(np.array([[0, 1, 1, 1]]), noise=False), 4)
        0.3333

    Reference:
        Hendrycks and Dietterich, ICLR 2019, https://arxiv.org/abs/1903.12261, section 4.3.
    """
    return float(np.mean(sequence_flips(predictions, noise=noise, difficulty=difficulty)))


def sequence_flips(predictions: np.ndarray, *, noise: bool, difficulty: int = 1) -> np.ndarray:
    """Computes the `flip_rate` of each sequence: float64 [S].

    Example:
        >>> sequence_flips(np.array([[0, 1, 1], [2, 2, 2]]), noise=False)
        array([0.5, 0. ])
    """
    predictions = np.asarray(predictions)
    if predictions.ndim != 2:
        raise ValueError(f"flip_rate expects predictions [S,T], found {predictions.shape}.")
    before, after = _transitions("flip_rate", predictions, noise, difficulty)
    return np.mean(before != after, axis=1)


def top5_distance(logits: np.ndarray, *, noise: bool, difficulty: int = 1) -> float:
    """Computes how far the five most likely classes move within the sequences of ImageNet-P.

        d = sum_{i=1}^5 |min(sigma_i, 6) - i|

    where sigma_i is the rank in the later frame of the class ranked i in the earlier one. It
    equals the paper's double sum, which counts the ranks crossed at or above the fifth.

    Args:
        logits: float [S,T,K], K > 5.
        noise: as in `flip_rate`.
        difficulty: as in `flip_rate`.

    Returns:
        The mean distance: 0 if the top five keep their order, 15 if all five leave.

    Raises:
        ValueError: not [S,T,K], K < 6, or too few frames.

    Example:
        >>> first, swapped = [9, 8, 7, 6, 5, 4, 3], [8, 9, 7, 6, 5, 4, 3]
        >>> top5_distance(np.array([[first, swapped]]), noise=False)
        2.0

    Reference:
        Hendrycks and Dietterich, ICLR 2019, https://arxiv.org/abs/1903.12261, section 4.3.
    """
    return float(np.mean(sequence_distances(logits, noise=noise, difficulty=difficulty)))


def sequence_distances(logits: np.ndarray, *, noise: bool, difficulty: int = 1) -> np.ndarray:
    """Computes the `top5_distance` of each sequence: float64 [S].

    Example:
        >>> still, swapped = [9, 8, 7, 6, 5, 4, 3], [8, 9, 7, 6, 5, 4, 3]
        >>> sequence_distances(np.array([[still, still], [still, swapped]]), noise=False)
        array([0., 2.])
    """
    logits = np.asarray(logits)
    if logits.ndim != 3 or logits.shape[2] < 6:
        raise ValueError(f"top5_distance expects logits [S,T,K] with K > 5, found {logits.shape}.")
    order = np.argsort(-logits, axis=2, kind="stable")  # ties: the lower class first
    ranks = np.argsort(order, axis=2, kind="stable")
    best, _ = _transitions("top5_distance", order[..., :5], noise, difficulty)
    _, later = _transitions("top5_distance", ranks, noise, difficulty)
    sigma = np.take_along_axis(later, np.broadcast_to(best, (*later.shape[:2], 5)), axis=2)
    return np.mean(np.sum(np.abs(np.minimum(sigma, 5) - np.arange(5)), axis=2), axis=1)


def mfr(flip_rates: Mapping[str, float]) -> float:
    """Computes mFR on ImageNet-P, in percent of AlexNet's: 100 mean_p FP_p / FP^AlexNet_p.

    Args:
        flip_rates: name of the perturbation -> flip probability in [0, 1], see `flip_rate`.
            All 10; the four extra ones are allowed and ignored.

    Returns:
        The mFR: 100 is as stable as AlexNet, lower is better.

    Raises:
        UserError: an unknown perturbation.
        ValueError: a perturbation without a value, values in percent.

    Example:
        >>> mfr(ALEXNET_P)
        100.0

    Reference:
        Hendrycks and Dietterich, ICLR 2019, https://arxiv.org/abs/1903.12261, section 4.3; the
        mean of the ratios, not the ratio of the means.
    """
    means = _means("mfr", flip_rates, ALEXNET_P, EXTRA_P, None)
    return _percent(means[p] / ALEXNET_P[p] for p in ALEXNET_P)


def _means(
    name: str, values: Mapping, needed: Mapping, extra: Iterable[str], shape: tuple | None
) -> dict[str, float]:
    """Checks that all values exist and are fractions, and returns their means."""
    for key in values:
        if key not in needed and key not in extra:
            raise UserError(f"{name} does not know {key!r}: {nearest(key, [*needed, *extra])}")
    missing = [key for key in needed if key not in values]
    if missing:
        raise ValueError(f"{name} expects all {len(needed)}, found none for {', '.join(missing)}.")
    for key in needed:
        value = np.asarray(values[key], np.float64)
        if value.shape not in ((), shape):
            raise ValueError(
                f"{name} expects {shape or 'one number'} per name, found {value.shape}."
            )
        if not (np.all(value >= 0.0) and np.all(value <= 1.0)):
            raise ValueError(f"{name} expects fractions in [0, 1], found {value} for {key}.")
    return {key: float(np.mean(values[key])) for key in needed}


def _percent(ratios: Iterable[float]) -> float:
    return 100.0 * float(np.mean(list(ratios)))


def _transitions(
    name: str, frames: np.ndarray, noise: bool, difficulty: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the earlier and the later frames of the pairs to compare, from [S,T,...]."""
    step = 1 if noise else difficulty
    if not len(frames) or not 1 <= step < frames.shape[1]:
        raise ValueError(f"{name} expects more than {step} frames [S,T,...], found {frames.shape}.")
    if noise:
        return frames[:, :1], frames[:, 1:]
    # A stride of d from every offset below d: all pairs d apart.
    return frames[:, :-step], frames[:, step:]
