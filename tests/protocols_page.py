"""The table of docs/protocols.md: words from here; flags and selection from the code."""

from methods_page import between, table

from jssl.evaluate import PROTOCOLS

IMAGENET_C = "[Hendrycks 2019](https://arxiv.org/abs/1903.12261)"
CPC = "[CPC v2](https://arxiv.org/abs/1905.09272)"
DEEPCLUSTER = "[DeepCluster](https://arxiv.org/abs/1807.05520)"
MOCO = "[MoCo](https://arxiv.org/abs/1911.05722)"
ALEXNET_VOC = "AlexNet or VGG-16; VOC 2007; hours"
IMAGENET = "a classifier of ImageNet's 1,000 classes; the set"
# name: what it measures, what it needs, whose it is
WORDS = {
    "knn": (
        "weighted kNN, cosine similarity",
        "labels",
        "[Wu 2018](https://arxiv.org/abs/1805.01978)",
    ),
    "softmax_regression": (
        "linear classifier on cached features, no augmentation",
        "labels",
        "[SimCLR](https://arxiv.org/abs/2002.05709), simplified",
    ),
    "mlp": (
        "multilayer perceptron on cached features",
        "labels",
        "[Noroozi 2016](https://arxiv.org/abs/1603.09246), table 2",
    ),
    "classifier": ("the run's own classifier", "a classifier; labels of its classes", "–"),
    "linear": (
        "linear classifier on augmented images, SGD",
        "labels; a pass over the data each epoch",
        "each method's own: `--preset`",
    ),
    "logistic": (
        "logistic regression, L-BFGS, 45 values of the regulariser",
        "labels",
        "[Kornblith 2019](https://arxiv.org/abs/1805.08974)",
    ),
    "grid": ("linear classifier on the grid of patches", "a run of `cpc`; labels", CPC),
    "label_efficient": (
        "classifier with few labels: frozen, then fine-tuned",
        "a run of `cpc`; labels; hours on ImageNet",
        CPC,
    ),
    "layers": (
        "linear classifier at every layer",
        "an encoder that names its layers; labels",
        "[BEiT](https://arxiv.org/abs/2106.08254)",
    ),
    "robustness": (
        "own classifier on corruptions made on the device",
        "a classifier; pictures in colour",
        f"after {IMAGENET_C}",
    ),
    "imagenet_a": (
        "top-1 among 200 classes",
        IMAGENET,
        "[Hendrycks 2021](https://arxiv.org/abs/1907.07174)",
    ),
    "imagenet_r": (
        "top-1 among 200 classes",
        IMAGENET,
        "[Hendrycks 2021](https://arxiv.org/abs/2006.16241)",
    ),
    "imagenet_v2": (
        "top-1, matched frequency",
        IMAGENET,
        "[Recht 2019](https://arxiv.org/abs/1902.10811)",
    ),
    "imagenet_c": ("mCE, relative mCE", IMAGENET, IMAGENET_C),
    "imagenet_p": ("mFR, top-5 distance", f"{IMAGENET}; the extra `video`", IMAGENET_C),
    "cifar10_c": ("mean error of 15 corruptions", "a classifier trained on CIFAR-10", IMAGENET_C),
    "retrieval": (
        "mAP on Oxford5k and Paris6k, R-MAC",
        "the set: `--source=roxford5k --data_dir=DIR`",
        f"{DEEPCLUSTER}; [revisited](https://arxiv.org/abs/1803.11285)",
    ),
    "voc": (
        "11-point mAP, logistic regression",
        "VOC 2007",
        "[BYOL](https://arxiv.org/abs/2006.07733)",
    ),
    "voc_fc68": ("mAP, fc6 to fc8 trained", ALEXNET_VOC, DEEPCLUSTER),
    "voc_fc68_affine": ("the same, and the affine part of BN", ALEXNET_VOC, DEEPCLUSTER),
    "voc_all": ("mAP, everything trained", ALEXNET_VOC, DEEPCLUSTER),
    "voc_detection": (
        "AP50, AP, AP75 of a detector on the network",
        "ResNet, AlexNet or VGG-16; VOC; hours",
        f"{MOCO}; [dense.md](dense.md)",
    ),
    "voc_segmentation": (
        "mIoU of a segmentation network",
        "ResNet or AlexNet; VOC; hours",
        f"{MOCO}; [dense.md](dense.md)",
    ),
    "transfer": (
        "logistic regression on twelve data sets",
        "one of them: `--source=pets` or `all12`",
        "[SimCLR](https://arxiv.org/abs/2002.05709), [BYOL](https://arxiv.org/abs/2006.07733)",
    ),
    "voc2007_finetune": (
        "11-point mAP, all layers fine-tuned",
        "a ResNet; VOC 2007; hours",
        "[SimCLR](https://arxiv.org/abs/2002.05709)",
    ),
}


def protocols():
    rows = []
    for name, protocol in PROTOCOLS.items():
        flags = " ".join(f"`{flag}`" for flag in protocol.uses)
        rows.append((f"`{name}`", *WORDS[name], flags, protocol.selects or "–"))
    head = ("`--protocol`", "measures", "needs", "of", "reads `--...`", "selected by labels")
    return table(head, rows)


def page(text):
    return between(text, "protocols", protocols())
