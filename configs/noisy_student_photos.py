"""Noisy Student on the embedded photographs with 5 % of the labels: a teacher, two generations.

Paper:     Xie et al., CVPR 2020, https://arxiv.org/abs/1911.04252
Data:      `photos`, 16 classes, 32 px tiles, see jssl/data/photos.py; 10 tiles of each class keep
           their labels, the other 3,040 train tiles are the unlabelled images
Numbers:   docs/results.md, made from the records of runs
Hardware:  2 CPU cores
Command:   jssl train --config=configs/noisy_student_photos.py --workdir=runs/noisy_student_photos
Switches:  smoke (a run of seconds), teacher_epochs=N, epochs=N (of each student), seed=N,
           generations=N (students in turn; 0: 2, with lite0 1), teacher=WORKDIR (trained before),
           fixres (a last stage at 40 px), lite0=WORKDIR of an imported EfficientNet-Lite0, which
           the teacher fine-tunes at 64 px, for one generation of the same small student:
           jssl import --weights=efficientnet-lite0-57934424.pth --workdir=runs/lite0
           jssl train --config=configs/noisy_student_photos.py:lite0=runs/lite0
               --workdir=runs/noisy_student_lite0
"""

from bases.photos import on_photos

from jssl import config
from jssl.errors import UserError
from jssl.models.efficientnet import OFFICIAL


def get_config(arg=""):
    s = config.switches(
        arg, smoke=False, teacher_epochs=100.0, epochs=140.0, seed=0, generations=0, teacher="",
        fixres=False, lite0="",
    )  # fmt: skip
    if s.generations < 0:
        raise UserError(f"generations={s.generations}: expected at least 1, or 0 for the default.")
    if s.teacher and s.lite0:
        raise UserError("teacher= and lite0= both name the teacher: give one of them.")
    c = config.base("noisy_student", preset="small")
    on_photos(c, s, batch_size=32)
    c.augment.options.scale = (0.4, 1.0)
    c.augment.options.policy_magnitude = 6.0
    c.noisy_student.label_fraction = 0.05
    c.noisy_student.images_per_class = 190  # 3,040 / 16
    c.noisy_student.min_confidence = 0.3
    c.noisy_student.empty_classes = "allow"  # a teacher of 160 tiles may never be sure of a class
    c.noisy_student.weighting = "lecture"
    c.monitor.every_epochs = 0.0
    stages = [{"stage": "teacher", "epochs": s.teacher_epochs}]
    generations = s.generations or (1 if s.lite0 else 2)
    stages += [{"stage": "label"}, {"stage": "student"}] * generations
    if s.lite0:
        stages = [{**stages[0], **_lite0()}, *stages[1:]]
        c.init_from = s.lite0
        c.noisy_student.allow_smaller_student = True
    if s.teacher:
        c.noisy_student.teacher = s.teacher
        stages = stages[1:]
    if s.fixres:
        stages += [{"stage": "fixres", "augment": {"size": 40}, "epochs": 2.0,
                    "optim": {"lr": 1e-4, "warmup_epochs": 0.0}}]  # fmt: skip
    config.apply(c, {"noisy_student": {"stages": tuple(stages)}})
    if s.smoke:
        config.smoke(c)
        c.optim.warmup_epochs = 0.5
        c.noisy_student.images_per_class = 20
        c.noisy_student.min_confidence = 0.0
        c.noisy_student.unlabeled_ratio = 2
    return c


def _lite0():
    """The teacher that starts from ImageNet's weights, with what belongs to them."""
    model = {**OFFICIAL, "name": "efficientnet_lite0", "width": 1.0, "stem": "imagenet"}
    return {"model": {**model, "stochastic_depth": 0.0, "bn_momentum": 0.9},
            "augment": {"size": 64, "normalize": "half"}}  # fmt: skip
