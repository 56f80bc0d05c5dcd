"""Records what the authors' networks compute, for tests/convert/test_official.py.

    python tests/reference/record_official_weights.py CHECKOUTS tests/golden

CHECKOUTS is a folder with checkouts of deepcluster and swav (facebookresearch), CMC (HobbitLong)
and DALL-E (openai), by those names. Needs torch, torchvision, timm and attrs. It writes
official_names.txt and official_outputs.npz, see record_weights.py, and dalle/encoder.pkl and
dalle/decoder.pkl: whole modules, one in each of torch's containers.

Nets that are made by their width have a sixteenth of the channels.
"""

import importlib
import sys
from pathlib import Path

import numpy as np
from record_weights import drawn, positions


def module(folder, name):
    """Imports a module of a checkout; several have a package `models`."""
    for known in [n for n in sys.modules if n.split(".")[0] in ("models", "src", "dall_e")]:
        del sys.modules[known]
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


def deepcluster(torch, code):
    """Its AlexNet and VGG-16 with a Sobel filter; the convolutions are under DataParallel."""
    made = {}
    alexnet = module(code / "deepcluster", "models.alexnet")
    layers = [(n[0] // 16, *n[1:]) if n != "M" else n for n in alexnet.CFG["2012"]]
    features = alexnet.make_layers_features(layers, 2, bn=True)
    net = alexnet.AlexNet(features, 10, sobel=True)
    net.classifier[1] = torch.nn.Linear(16 * 36, 256)
    net.classifier[4] = torch.nn.Linear(256, 256)
    net.top_layer = torch.nn.Linear(256, 10)
    net.forward = lambda x, net=net: net.top_layer(
        net.classifier(net.features(net.sobel(x)).flatten(1))  # its own is of 256 channels
    )
    made["deepcluster_alexnet"] = net
    vgg = module(code / "deepcluster", "models.vgg16")
    narrow, width = [], 2
    for size in [4, 4, "M", 8, 8, "M", 16, 16, 16, "M", 32, 32, 32, "M", 32, 32, 32, "M"]:
        if size == "M":
            narrow.append(torch.nn.MaxPool2d(2, 2))
            continue
        narrow += [torch.nn.Conv2d(width, size, 3, padding=1), torch.nn.BatchNorm2d(size),
                   torch.nn.ReLU()]  # fmt: skip
        width = size
    net = vgg.VGG(torch.nn.Sequential(*narrow), 10, sobel=True)
    net.classifier[0] = torch.nn.Linear(32 * 49, 256)
    net.classifier[3] = torch.nn.Linear(256, 256)
    net.top_layer = torch.nn.Linear(256, 10)
    made["deepcluster_vgg16"] = net
    for net in made.values():
        net.features = torch.nn.DataParallel(net.features)
    return made


def swav(torch, code):
    """DeepCluster v2's and SwAV's ResNet-18 under DistributedDataParallel's name."""
    resnet = module(code / "swav", "src.resnet50")
    made = {}
    for name, prototypes in (("deepcluster_v2", [12, 10]), ("swav", 12)):
        net = resnet.ResNet(
            resnet.BasicBlock, [2, 2, 2, 2], normalize=True, hidden_mlp=24, output_dim=16,
            nmb_prototypes=prototypes,
        )  # fmt: skip
        made[name] = whole = torch.nn.Module()
        whole.module = net
        whole.forward = lambda x, net=net: net.forward_head(net.forward_backbone(x))[0]
    return made


def vgg(torch, torchvision):
    """torchvision's VGG-16 with batch normalisation."""
    layers = [c if c == "M" else c // 16 for c in torchvision.models.vgg.cfgs["D"]]
    features = torchvision.models.vgg.make_layers(layers, batch_norm=True)
    net = torchvision.models.VGG(features, num_classes=10)
    net.classifier[0] = torch.nn.Linear(32 * 49, 256)
    net.classifier[3] = torch.nn.Linear(256, 256)
    net.classifier[6] = torch.nn.Linear(256, 10)
    return net


def moco_linear(torch, torchvision, timm):
    """Networks with a linear classifier under DistributedDataParallel's name."""
    vit = timm.create_model(
        "vit_small_patch16_224", num_heads=12, img_size=64, depth=2, num_classes=10
    )
    made = {"moco_linear_vit": vit, "moco_linear_resnet": torchvision.models.resnet18()}
    for kind, net in made.items():
        made[kind] = whole = torch.nn.Module()
        whole.module = net
        whole.forward = net.forward
    return made


def cmc(torch, code):
    made = {"cmc_alexnet": module(code / "CMC", "models.alexnet").MyAlexNetCMC(16)}
    made["cmc_resnet"] = module(code / "CMC", "models.resnet").MyResNetsCMC("resnet18v1")
    return made


def dalle(torch, code, folder, images):
    """The dVAE's two modules, pickled whole; returns the tokens' logits and the reconstruction."""
    import attr

    attr.validators.set_disabled(True)  # of the smallest width

    def no_source(obj):
        raise OSError("not stored")

    torch.serialization.get_source_lines_and_file = no_source  # the older container has it
    package = module(code / "DALL-E", "dall_e")
    encoder = package.Encoder(n_hid=8, n_blk_per_group=1, vocab_size=32)
    decoder = package.Decoder(n_init=8, n_hid=8, n_blk_per_group=1, vocab_size=32)
    for name, net in (("encoder", encoder), ("decoder", decoder)):
        with torch.no_grad():
            for key, value in net.named_parameters():
                value.copy_(torch.from_numpy(drawn(f"{name}.{key}", tuple(value.shape))))
        (folder / "dalle").mkdir(exist_ok=True)
        new = name == "encoder"
        torch.save(net, folder / "dalle" / f"{name}.pkl", _use_new_zipfile_serialization=new)
    with torch.no_grad():
        logits = encoder(package.map_pixels(torch.from_numpy(images)))
        codes = torch.nn.functional.one_hot(logits.argmax(1), 32).permute(0, 3, 1, 2).float()
        pictures = package.unmap_pixels(torch.sigmoid(decoder(codes)[:, :3]))
    return {
        "dalle_images": images,
        "dalle_logits": logits.numpy(),
        "dalle_pictures": pictures.numpy(),
    }


def record(code, folder):
    import timm
    import torch
    import torchvision

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    small = rng.standard_normal((2, 3, 64, 64)).astype(np.float32)
    large = rng.standard_normal((2, 3, 14, 14)).astype(np.float32).repeat(16, 2).repeat(16, 3)
    nets = {
        **deepcluster(torch, code),
        **swav(torch, code),
        **cmc(torch, code),
        **moco_linear(torch, torchvision, timm),
        "vgg": vgg(torch, torchvision),
        "vit_torchvision": torchvision.models.VisionTransformer(
            image_size=64, patch_size=16, num_layers=2, num_heads=12, hidden_dim=768,
            mlp_dim=3072, num_classes=10,
        ),
        "regnet_timm": timm.create_model("regnety_004", num_classes=10),
        "regnet_torchvision": torchvision.models.regnet_y_400mf(num_classes=10),
        "beit_pretrained": timm.create_model(
            "beit_base_patch16_224", num_classes=32, img_size=64, depth=2, global_pool="",
            use_rel_pos_bias=False, use_shared_rel_pos_bias=True,
        ),
    }  # fmt: skip
    lines, out = [], {"small": small, "large": large[:, :, ::16, ::16]}
    for kind, net in nets.items():
        state = net.state_dict()
        for own, value in state.items():
            # BEiT's official name of the layer that predicts tokens.
            name = own.replace("head.", "lm_head.") if kind == "beit_pretrained" else own
            lines.append(f"{kind} {name} {'x'.join(map(str, value.shape)) or 'scalar'}")
            if "sobel" not in name and "index" not in name:
                state[own] = torch.from_numpy(drawn(name, tuple(value.shape)))
            if name.endswith("module.pos_embed"):
                state[own] = torch.from_numpy(positions(4, 384))
        net.load_state_dict(state)
        net.eval()
        of_224 = kind in ("deepcluster_alexnet", "deepcluster_vgg16", "vgg")
        images = torch.from_numpy(large if of_224 else small)
        if kind.startswith("cmc"):  # of 224 px, as their pools want
            images = torch.from_numpy(np.tile(small, (1, 1, 4, 4))[:, :, :224, :224])
        with torch.no_grad():
            result = net(images)
        result = torch.cat(result, 1) if isinstance(result, tuple) else result
        out[kind] = result.numpy()
        print(kind, len(state), out[kind].shape, np.abs(out[kind]).max())
    # The names of whole nets, which are too large to be drawn.
    for kind, net in {
        "names_timm_vgg": timm.create_model("vgg16_bn"),
        "names_torchvision_vgg": torchvision.models.vgg16_bn(),
    }.items():
        for name, value in net.state_dict().items():
            lines.append(f"{kind} {name} {'x'.join(map(str, value.shape)) or 'scalar'}")
    out |= dalle(torch, code, folder, rng.random((2, 3, 32, 32)).astype(np.float32))
    (folder / "official_names.txt").write_text("\n".join(lines) + "\n")
    np.savez_compressed(folder / "official_outputs.npz", **out)


if __name__ == "__main__":
    record(Path(sys.argv[1]), Path(sys.argv[2]))
