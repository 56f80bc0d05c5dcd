"""The runs of `launch/ablations.py`: for each study its rows, protocols and curves."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import ablation_views


class Study(NamedTuple):
    """A set of runs that differ in one setting.

    Attributes:
        rows: {name: (config and its switches, further flags of `jssl train`)}; `{seed}` is the
            seed and `{folder}` the folder that holds the workdirs of the rows before.
        curves: metrics that are kept over the course of the run.
        protocols: of `jssl evaluate`, after the training; flags may follow.
        prepare: `(folder)`, writes files before the first row; {folder} is theirs too.
    """

    rows: dict[str, tuple[str, ...]]
    curves: tuple[str, ...] = ("knn_top1",)
    protocols: tuple[str, ...] = ()
    prepare: Callable[[Path], None] = lambda folder: None


COLLAPSE = (
    "knn_top1",
    "loss",
    "collapse/backbone_std",
    "collapse/backbone_effective_rank",
    "collapse/projection_std",
    "collapse/projection_effective_rank",
)
CLUSTERS = (
    "knn_top1",
    "cluster/nmi_labels",
    "cluster/nmi_previous",
    "cluster/empty",
    "cluster/largest_share",
    "cluster/entropy",
)

BYOL = "byol_photos.py:seed={seed}"
DEEPCLUSTER = "deepcluster_photos.py:seed={seed}"
QUICK = "simclr_photos.py:seed={seed},"
HALF = ("--config.augment.options.strength=0.25", "--config.augment.options.gray_p=0.1")
T5, CROP = "--config.simclr.temperature=0.5", "--config.augment.options.scale=(0.2,1.0)"

# DeiT's ablation. Its recipe of ImageNet, but the size; configs/deit_photos.py has less noise.
DEIT = ("deit_photos.py:distill=none,epochs=6,seed={seed}", "--config.monitor.every_epochs=0")
RANDAUGMENT = tuple(
    f"--config.augment.options.policy_{name}={value}"
    for name, value in (
        ("ops", 2), ("form", "timm"), ("chance", 0.5), ("deviation", 0.5), ("magnitude", 9.0),
    )
)  # fmt: skip
REPEATED = ("--config.deit.repeated_augmentation=3",)
DEPTH = ("--config.model.stochastic_depth=0.1",)
SGD = ("--config.optim.name=sgd", "--config.optim.lr=0.05")
NO_MIXUP, NO_CUTMIX = "--config.deit.mixup_alpha=0.0", "--config.deit.cutmix_alpha=0.0"

# CMC's views, on arrays made of the tiles. Small encoders, as there are five.
VIEWS = "cmc_five_views.py:data={folder},epochs=2,seed={seed},"
ADAMW = (
    "--config.optim.name=adamw", "--config.optim.lr=1e-3", "--config.optim.lr_scaling=none",
    "--config.optim.warmup_epochs=0.5", "--config.optim.weight_decay=1e-4",
    "--config.model.width=0.25", "--config.augment.options.scale=(0.2,1.0)",
    "--config.log.every_steps=20",
)  # fmt: skip

# Noisy Student: three generations, and students of the same teacher with one ingredient changed.
NOISY = "noisy_student_photos.py:seed={seed},"
STUDENT = NOISY + "generations=1,teacher={folder}/generations/1_teacher"
NO_RANDAUGMENT = "--config.augment.options.policy_ops=0"
NO_DROPOUT = "--config.noisy_student.dropout=0.0"

# BEiT and training from scratch: 2,000 steps of pre-training and 600 of fine-tuning, or 2,600.
TUNED = "beit_finetune_photos.py:seed={seed},"
NO_MONITOR = "--config.monitor.every_epochs=0"
DVAE = "dvae_photos.py:seed={seed}"
WHOLE = "--config.augment.options.scale=(1.0,1.0)"  # of the tile: a crop is smoother than a tile
WIDE = "--config.dvae.hidden=32"

STUDIES = {
    "byol": Study(
        {
            "byol": (BYOL,),
            "no_predictor": (BYOL, "--config.byol.predictor=False"),
            "tau_0": (BYOL, "--config.byol.ema_momentum=0.0"),
            "no_predictor_tau_0": (
                BYOL,
                "--config.byol.predictor=False",
                "--config.byol.ema_momentum=0.0",
            ),
        },
        curves=COLLAPSE,
    ),
    "deepcluster": Study(
        {
            "v1": (DEEPCLUSTER,),
            "v2": ("deepcluster_v2_photos.py:seed={seed}",),
            "empty_kept": (DEEPCLUSTER, "--config.deepcluster.empty_clusters=keep"),
            "not_uniform": (DEEPCLUSTER, "--config.deepcluster.sampling=examples"),
            # With 32 tiles a cluster none is ever empty; with three some are.
            "k1000": (DEEPCLUSTER, "--config.deepcluster.num_clusters=1000"),
            "k1000_empty_kept": (
                DEEPCLUSTER,
                "--config.deepcluster.num_clusters=1000",
                "--config.deepcluster.empty_clusters=keep",
            ),
            "k1000_neither": (
                DEEPCLUSTER,
                "--config.deepcluster.num_clusters=1000",
                "--config.deepcluster.empty_clusters=keep",
                "--config.deepcluster.sampling=examples",
            ),
        },
        curves=CLUSTERS,
    ),
    "deit": Study(
        {
            "deit": (*DEIT, *RANDAUGMENT, *REPEATED, *DEPTH),
            "sgd": (*DEIT, *RANDAUGMENT, *REPEATED, *DEPTH, *SGD),
            "no_randaugment": (*DEIT, *REPEATED, *DEPTH),
            "no_mixup": (*DEIT, *RANDAUGMENT, *REPEATED, *DEPTH, NO_MIXUP),
            "no_cutmix": (*DEIT, *RANDAUGMENT, *REPEATED, *DEPTH, NO_CUTMIX),
            "no_mixup_cutmix": (*DEIT, *RANDAUGMENT, *REPEATED, *DEPTH, NO_MIXUP, NO_CUTMIX),
            "no_erasing": (*DEIT, *RANDAUGMENT, *REPEATED, *DEPTH, "--config.deit.erasing_p=0.0"),
            "no_stochastic_depth": (*DEIT, *RANDAUGMENT, *REPEATED),
            "no_repeated": (*DEIT, *RANDAUGMENT, *DEPTH),
            "dropout": (*DEIT, *RANDAUGMENT, *REPEATED, *DEPTH, "--config.model.dropout=0.1"),
            "ema": (*DEIT, *RANDAUGMENT, *REPEATED, *DEPTH, "--config.deit.ema_decay=0.99"),
            "photos": (*DEIT,),
        },
    ),
    "cmc_views": Study(
        {
            "two": (VIEWS + "views=2", *ADAMW),
            "three": (VIEWS + "views=3", *ADAMW),
            "four": (VIEWS + "views=4", *ADAMW),
            "five": (VIEWS + "views=5", *ADAMW),
            "five_core": (VIEWS + "views=5,graph=core", *ADAMW),
        },
        curves=("knn_top1", "loss", "contrastive_top1"),
        prepare=ablation_views.write,
    ),
    "noisy_student": Study(
        {
            "generations": (NOISY + "generations=3",),
            "student": (STUDENT,),
            "no_noise": (STUDENT, NO_RANDAUGMENT, NO_DROPOUT),
            "no_randaugment": (STUDENT, NO_RANDAUGMENT),
            "no_dropout": (STUDENT, NO_DROPOUT),
            "larger_student": (STUDENT, "--config.model.width=0.75"),
            "hard_labels": (STUDENT, "--config.noisy_student.targets=hard"),
            "more_unlabelled": (STUDENT, "--config.noisy_student.unlabeled_ratio=6"),
        },
        curves=("loss",),
        protocols=("robustness",),
    ),
    "beit": Study(
        {
            "scratch_600": (TUNED + "init=", NO_MONITOR),
            "scratch_2600": (TUNED + "init=,epochs=260", NO_MONITOR),
            "tokenizer": ("dvae_photos.py:seed={seed}",),
            "beit": ("beit_photos.py:seed={seed},tokenizer={folder}/tokenizer", NO_MONITOR),
            "tuned": (TUNED + "init={folder}/beit", NO_MONITOR),
            "tuned_all": (TUNED + "init={folder}/beit,labels=1.0,epochs=6", NO_MONITOR),
            "scratch_all_2600": (TUNED + "init=,labels=1.0,epochs=26", NO_MONITOR),
            "deit_all_2600": (
                "deit_photos.py:distill=none,epochs=26,seed={seed}",
                NO_MONITOR,
                "--config.batch_size=32",
            ),
        },
        curves=("loss", "reconstruction_mse_ratio", "masked_top1"),
    ),
    # README's first command, and what was tried before.
    "quick_start": Study(
        {
            "paper": (QUICK + "jitter=paper",),
            "half": (QUICK + "jitter=paper", *HALF),
            "half_t5": (QUICK + "jitter=paper", *HALF, T5),
            "half_t5_crop": (QUICK + "jitter=paper", *HALF, T5, CROP),
            "weak": (QUICK + "jitter=weak",),
        },
        curves=("knn_top1", "loss"),
    ),
    # From photographs to the handwritten digits of scikit-learn, by the test of all features.
    "transfer": Study(
        {
            "simclr": ("simclr_photos.py:seed={seed}",),
            "byol": (BYOL,),
            "deepcluster": (DEEPCLUSTER,),
            "supervised": ("supervised_photos.py:seed={seed}",),
        },
        protocols=("logistic --source=digits",),
    ),
    "dvae": Study(
        {
            "dvae": (DVAE,),
            "beta_0": (DVAE, "--config.dvae.beta=0.0"),
            "beta_3": (DVAE, "--config.dvae.beta=0.003"),
            "whole": (DVAE, WHOLE),
            "wide": (DVAE, WIDE),
            "wide_whole": (DVAE, WIDE, WHOLE),
            "codes_2048": (DVAE, WHOLE, "--config.dvae.vocabulary=2048"),
            "lr_3": (DVAE, "--config.optim.lr=0.003"),
            "lr_30": (DVAE, "--config.optim.lr=0.03"),
            "tau_01": (DVAE, "--config.dvae.temperature=(1.0,0.1)"),
            "long": ("dvae_photos.py:seed={seed},epochs=55", WIDE, WHOLE),
        },
        curves=("reconstruction_mse_ratio", "codes/perplexity", "reconstruction", "kl"),
    ),
}
