"""CMC with five views of a scene: L, ab, depth, surface normals and semantic labels.

Paper:     Tian et al., ECCV 2020, https://arxiv.org/abs/1906.05849, section 4.3 (NYU-Depth-V2);
           its code was never published, and with it the settings: these are of the two-view run
Data:      `synthetic_scenes`, made here, to try the method. For scenes of your own give data=DIR
           with train.npz and test.npz, each holding for M scenes: 'image' uint8 [M,H,W,3];
           'depth' float32 [M,H,W,1] in metres; 'normals' float32 [M,H,W,3], unit vectors (right,
           up, to the camera); 'segmentation' int32 [M,H,W], labels 0 ... segments-1, anything
           else for unlabelled pixels; perhaps 'label' int [M] of the scene.
Numbers:   none: synthetic data have no published ones
Hardware:  2 CPU cores for the synthetic scenes
Command:   jssl train --config=configs/cmc_five_views.py --workdir=runs/cmc_five_views
Switches:  smoke, graph=core|full (core view: L), views=N (the first N of the five), epochs=N,
           batch=N, size=N, seed=N, segments=N, data=DIR
"""

from jssl import config
from jssl.errors import UserError

VIEWS = ("l", "ab", "depth", "normals", "segmentation")


def get_config(arg=""):
    s = config.switches(
        arg, smoke=False, graph="full", views=5, epochs=4.0, batch=32, size=32, seed=0,
        segments=4, data="",
    )  # fmt: skip
    if not 2 <= s.views <= len(VIEWS):
        raise UserError(f"views={s.views}: expected views=2 to views={len(VIEWS)}.")
    c = config.base("cmc", preset="v1")
    c.data.name = "arrays" if s.data else "synthetic_scenes"
    c.data.data_dir = s.data
    c.data.image_size = s.size
    c.augment.size = s.size
    c.seed = s.seed
    c.epochs = s.epochs
    c.batch_size = s.batch
    c.model.name = "resnet8"
    c.model.stem = "cifar"
    c.model.stem_width_fixed = False
    c.model.bn_groups = 1
    c.cmc.views = VIEWS[: s.views]
    c.cmc.graph = s.graph
    c.cmc.segments = s.segments
    c.cmc.contrast = "softmax"
    c.cmc.num_negatives = 256
    c.optim.schedule = "cosine"
    c.optim.boundaries = ()
    c.log.every_steps = 5
    c.checkpoint.every_steps = 100
    if s.smoke:
        config.smoke(c)
        c.model.stage_sizes = (1,)  # there are many encoders to compile
    return c
