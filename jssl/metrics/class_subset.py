"""Accuracy among some of ImageNet's classes: ImageNet-A and ImageNet-R have 200 each."""

from collections.abc import Sequence

import numpy as np

# fmt: off
# The classes of ImageNet-A among the 1000, in the order of its folders.
IMAGENET_A = (
    6, 11, 13, 15, 17, 22, 23, 27, 30, 37, 39, 42, 47, 50, 57, 70, 71, 76, 79, 89, 90, 94, 96,
    97, 99, 105, 107, 108, 110, 113, 124, 125, 130, 132, 143, 144, 150, 151, 207, 234, 235,
    254, 277, 283, 287, 291, 295, 298, 301, 306, 307, 308, 309, 310, 311, 313, 314, 315, 317,
    319, 323, 324, 326, 327, 330, 334, 335, 336, 347, 361, 363, 372, 378, 386, 397, 400, 401,
    402, 404, 407, 411, 416, 417, 420, 425, 428, 430, 437, 438, 445, 456, 457, 461, 462, 470,
    472, 483, 486, 488, 492, 496, 514, 516, 528, 530, 539, 542, 543, 549, 552, 557, 561, 562,
    569, 572, 573, 575, 579, 589, 606, 607, 609, 614, 626, 627, 640, 641, 642, 643, 658, 668,
    677, 682, 684, 687, 701, 704, 719, 736, 746, 749, 752, 758, 763, 765, 768, 773, 774, 776,
    779, 780, 786, 792, 797, 802, 803, 804, 813, 815, 820, 823, 831, 833, 835, 839, 845, 847,
    850, 859, 862, 870, 879, 880, 888, 890, 897, 900, 907, 913, 924, 932, 933, 934, 937, 943,
    945, 947, 951, 954, 956, 957, 959, 971, 972, 980, 981, 984, 986, 987, 988,
)
# The same of ImageNet-R.
IMAGENET_R = (
    1, 2, 4, 6, 8, 9, 11, 13, 22, 23, 26, 29, 31, 39, 47, 63, 71, 76, 79, 84, 90, 94, 96, 97,
    99, 100, 105, 107, 113, 122, 125, 130, 132, 144, 145, 147, 148, 150, 151, 155, 160, 161,
    162, 163, 171, 172, 178, 187, 195, 199, 203, 207, 208, 219, 231, 232, 234, 235, 242, 245,
    247, 250, 251, 254, 259, 260, 263, 265, 267, 269, 276, 277, 281, 288, 289, 291, 292, 293,
    296, 299, 301, 308, 309, 310, 311, 314, 315, 319, 323, 327, 330, 334, 335, 337, 338, 340,
    341, 344, 347, 353, 355, 361, 362, 365, 366, 367, 368, 372, 388, 390, 393, 397, 401, 407,
    413, 414, 425, 428, 430, 435, 437, 441, 447, 448, 457, 462, 463, 469, 470, 471, 472, 476,
    483, 487, 515, 546, 555, 558, 570, 579, 583, 587, 593, 594, 596, 609, 613, 617, 621, 629,
    637, 657, 658, 701, 717, 724, 763, 768, 774, 776, 779, 780, 787, 805, 812, 815, 820, 824,
    833, 847, 852, 866, 875, 883, 889, 895, 907, 928, 931, 932, 933, 934, 936, 937, 943, 945,
    947, 948, 949, 951, 953, 954, 957, 963, 965, 967, 980, 981, 983, 988,
)
# fmt: on


def subset_accuracy(logits: np.ndarray, labels: np.ndarray, *, classes: Sequence[int]) -> float:
    """Computes top-1 accuracy among a subset of the classes that a network was trained on.

    The prediction is the largest logit of the subset; other classes are ignored. The numbers
    published on ImageNet-A and ImageNet-R are of this kind.

    Args:
        logits: float [M,K] of all classes.
        labels: int [M], the position of the true class in `classes`: the number of its folder,
            in the folders' sorted order.
        classes: the subset, such as `IMAGENET_A` or `IMAGENET_R`, each once.

    Returns:
        In [0, 1].

    Raises:
        ValueError: wrong shapes, no examples, labels outside the subset, classes outside 0 ... K-1
            or repeated.

    Example:
        >>> logits = np.array([[5.0, 1.0, 2.0], [0.0, 9.0, 8.0]])
        >>> subset_accuracy(logits, np.array([1, 1]), classes=(1, 2))  # class 0 is ignored
        0.5

    Reference:
        Hendrycks et al., Natural adversarial examples, CVPR 2021,
        https://arxiv.org/abs/1907.07174; the official code's `thousand_k_to_200`. The Many Faces
        of Robustness, ICCV 2021, https://arxiv.org/abs/2006.16241, for ImageNet-R.
    """
    logits, labels, columns = np.asarray(logits), np.asarray(labels), np.asarray(classes)
    if logits.ndim != 2 or not len(logits) or labels.shape != logits.shape[:1]:
        raise ValueError(
            "subset_accuracy expects logits [M,K] with M > 0 and labels [M], found "
            f"{logits.shape} and {labels.shape}."
        )
    if len(set(columns.tolist())) != len(columns) or columns.ndim != 1:
        raise ValueError(f"subset_accuracy expects each class once, found {classes}.")
    if not len(columns) or columns.min() < 0 or columns.max() >= logits.shape[1]:
        raise ValueError(
            f"subset_accuracy expects classes below the {logits.shape[1]} columns of the logits, "
            f"found {len(columns)} classes up to {max(columns.tolist(), default=None)}."
        )
    if labels.min() < 0 or labels.max() >= len(columns):
        raise ValueError(
            f"subset_accuracy expects labels from 0 to {len(columns) - 1}, positions in the "
            f"subset, found {labels.min()} to {labels.max()}."
        )
    return float(np.mean(np.argmax(logits[:, columns], axis=1) == labels))
