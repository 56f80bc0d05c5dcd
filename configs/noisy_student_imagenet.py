"""Noisy Student on ImageNet-1k with a folder of unlabelled images: EfficientNet B0 to B7, L2.

Paper:     Xie et al., CVPR 2020, https://arxiv.org/abs/1911.04252; official code and scripts:
           https://github.com/google-research/noisystudent
Data:      ImageNet-1k through TFDS: python -m jssl.data.prepare imagenet2012 (needs the archives);
           unlabelled: any folder of pictures, given by `unlabeled`; the paper's 300M JFT images
           are not public
Target:    validation top-1 B0 78.8, B1 81.5, B2 82.4, B3 84.1, B4 85.3, B5 86.1, B6 86.4, B7 86.9,
           L2 88.4 (480 M parameters, at 800 px; 88.2 at 475), by the official README; without
           unlabelled images B0 76.7, B7 84.7 with RandAugment. Last epoch, centre crop, averaged
           weights. Not run here.
Hardware:  TPU v3-32 for B0; the paper's L2 took 6 days on a TPU v3-2048
Command:   jssl train --config=configs/noisy_student_imagenet.py:unlabeled=DIR
               --workdir=/mnt/BUCKET/ns
Switches:  smoke, student=b0..b7|l2, unlabeled=DIR, generations=N, epochs=N, batch=N, fixres
               (L2 trains at 475 px and is fine-tuned at 800), iterative (B7 teaches L2, which
               teaches L2 twice: 87.6, 88.1, 88.4; 14, 14 and 28 unlabelled images a labelled one)
"""

from jssl import config
from jssl.errors import UserError, nearest
from jssl.models import SIZES

L2_TRAINED = 475  # px; 800 is the size that FixRes ends with
RATIOS = (14, 14, 28)  # of the three L2 students of the paper's iterative training, section 4.1
# RandAugment's magnitude by the official scripts; none for B0 and B1, 27 by default.
MAGNITUDES = {"b2": 6.0, "b3": 12.0, "b4": 15.0, "b5": 18.0, "b6": 24.0, "b7": 27.0, "l2": 27.0}


def network(name):
    """What a network changes: itself, its resolution, dropout, noise and length."""
    if f"efficientnet_{name}" not in SIZES:
        raise UserError(
            f"Switch ':student' expects b0 to b7 or l2, found '{name}': "
            f"{nearest(name, [n.removeprefix('efficientnet_') for n in SIZES])}."
        )
    size, small = SIZES[f"efficientnet_{name}"], name in ("b0", "b1", "b2", "b3", "b4")
    return {
        "model": {"name": f"efficientnet_{name}"},
        "epochs": 700.0 if small else 350.0,
        "augment": {
            "size": L2_TRAINED if name == "l2" else size.resolution,
            "options": {
                "policy_ops": 2 if name in MAGNITUDES else 0,
                "policy_magnitude": MAGNITUDES.get(name, 10.0),
            },
        },
        "optim": {"decay_epochs": 4.8 if small else 2.4},
        # 14 by the paper for L2; the scripts have 1 for B0 and 3 for the others.
        "noisy_student": {
            "dropout": size.dropout,
            "unlabeled_ratio": {"b0": 1, "l2": 14}.get(name, 3),
        },
    }


def get_config(arg=""):
    s = config.switches(
        arg, smoke=False, student="b0", unlabeled="", generations=1, epochs=0.0, batch=2048,
        fixres=False, iterative=False,
    )  # fmt: skip
    c = config.base("noisy_student", preset="imagenet")
    if s.iterative:
        s.student = "l2"
    changes = network(s.student)
    if s.epochs:
        changes["epochs"] = s.epochs
    config.apply(c, changes)
    c.batch_size = s.batch
    c.dtype = "bfloat16"
    c.data.name = "imagenet2012"
    c.data.host_crop = "tf"
    c.data.workers = 16
    c.data.on_error = "skip"
    c.noisy_student.unlabeled_name = "folder"
    c.noisy_student.unlabeled_dir = s.unlabeled
    again = [{"stage": "label"}, {"stage": "student"}] * s.generations
    stages = [{"stage": "teacher"}, *again]
    if s.iterative:
        stages = [{"stage": "teacher", **network("b7")}]
        for ratio in RATIOS:
            own = {"noisy_student": {"unlabeled_ratio": ratio}}
            stages += [{"stage": "label"}, {"stage": "student", **own}]
    if s.fixres:
        resolution = SIZES[f"efficientnet_{s.student}"].resolution
        size = resolution if s.student == "l2" else resolution * 5 // 4
        stages += [{"stage": "fixres", "augment": {"size": size}, "epochs": 1.5,
                    "optim": {"warmup_epochs": 0.0, "lr": 1e-4, "schedule": "constant"},
                    "noisy_student": {"frozen_blocks": 0}}]  # fmt: skip
    config.apply(c, {"noisy_student": {"stages": tuple(stages)}})
    if s.smoke:
        config.smoke(c)
        c.model.name = "efficientnet_b0"
        c.noisy_student.min_confidence = 0.0
        c.noisy_student.empty_classes = "allow"
    return c
