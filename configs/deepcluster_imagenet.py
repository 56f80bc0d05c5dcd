"""DeepCluster on ImageNet-1k: AlexNet or VGG-16 with Sobel input, as the paper, or a ResNet.

Paper:     Caron et al., ECCV 2018, https://arxiv.org/abs/1807.05520; settings of
           https://github.com/facebookresearch/deepcluster, main.py
Data:      ImageNet-1k through TFDS: python -m jssl.data.prepare imagenet2012 (needs the archives)
Target:    AlexNet, linear classifiers on conv1 ... conv5 of ImageNet (table 1): 12.9, 29.2, 38.2,
           39.8, 36.1 % top-1; VOC 2007 classification 72.0 (FC6-8) and 73.7 (all). VGG-16: VOC 2007
           detection 65.9. NMI between epochs .54 -> .68 (the authors' log). The paper has no
           ResNet. Not run here.
Hardware:  AlexNet: one GPU with 16 GB, 12 days (the authors'); VGG-16 and ResNet-50: 4 to 8 GPUs
Command:   jssl train --config=configs/deepcluster_imagenet.py --workdir=/mnt/BUCKET/deepcluster
Switches:  smoke, arch=alexnet|vgg16|resnet50, epochs=N, k=N
"""

from jssl import config


def get_config(arg=""):
    s = config.switches(arg, smoke=False, arch="alexnet", epochs=500.0, k=10000)
    c = config.base("deepcluster", preset="v1")
    c.epochs = s.epochs
    c.data.name = "imagenet2012"
    c.data.host_crop = "torchvision"
    c.data.workers = 16
    c.model.name = s.arch
    if s.arch not in ("alexnet", "vgg16"):
        c.model.dropout = 0.0  # a ResNet has none
    c.deepcluster.num_clusters = s.k
    c.monitor.every_epochs = 10.0
    if s.smoke:
        config.smoke(c)
        c.model.dropout = 0.0
        c.deepcluster.num_clusters = 8
        c.deepcluster.pca_dim = 4
    return c
