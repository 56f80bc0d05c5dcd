"""CMC on video: a frame, a later frame, and the optical flow of ten frames around the first.

Paper:     Tian et al., ECCV 2020, https://arxiv.org/abs/1906.05849, section 4.2 (UCF101, HMDB51);
           its code was never published, and with it the settings: these are of the two-view run
Data:      `synthetic_video`, made here, to try the method. For clips of your own give data=DIR
           with train.npz and test.npz, each holding for M clips: 'image' uint8 [M,H,W,3], the
           frame; 'later' uint8 [M,H,W,3], a frame some time after it; 'flow' float32
           [M,H,W,2 frames], for each of the flow fields pixels to the right, then pixels down;
           perhaps 'label' int [M] of the action.
Numbers:   none: synthetic data have no published ones
Hardware:  2 CPU cores for the synthetic video
Command:   jssl train --config=configs/cmc_video.py --workdir=runs/cmc_video
Switches:  smoke, graph=core|full (core view: the frame), epochs=N, batch=N, size=N,
           frames=N (fields of flow), data=DIR
"""

from jssl import config


def get_config(arg=""):
    s = config.switches(
        arg, smoke=False, graph="core", epochs=4.0, batch=32, size=32, frames=10, data=""
    )
    c = config.base("cmc", preset="v1")
    c.data.name = "arrays" if s.data else "synthetic_video"
    c.data.data_dir = s.data
    c.data.image_size = s.size
    c.augment.size = s.size
    c.augment.normalize = "imagenet"
    c.epochs = s.epochs
    c.batch_size = s.batch
    c.model.name = "resnet8"
    c.model.stem = "cifar"
    c.model.stem_width_fixed = False
    c.model.bn_groups = 1
    c.cmc.views = ("frame", "later", "flow")
    c.cmc.graph = s.graph
    c.cmc.flow_frames = s.frames
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
