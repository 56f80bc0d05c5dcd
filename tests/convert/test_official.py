"""Published weights against the authors' nets, see tests/reference/record_official_weights.py.

Three files were written by the authors' code: SimCLR's checkpoint by TensorFlow, BYOL's pickle by
dill, DALL-E's modules by torch. Of the others the names, shapes and outputs were recorded.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert.test_families import GOLDEN, imported, recorder
from convert.tf_files import checkpoint_file
from convert.torch_files import legacy_file, zip_file

from jssl import convert
from jssl.augment._pixels import STATISTICS
from jssl.errors import UserError
from jssl.methods import beit, cmc, dvae
from jssl.models.dvae import map_pixels, unmap_pixels
from jssl.models.plain import SOBEL
from jssl.run import build

tf_values = imported("record_tf_efficientnet")
OUTPUTS = np.load(GOLDEN / "official_outputs.npz")


def state_dict(kind):
    """The state dict that was recorded."""
    rows = [line.split() for line in (GOLDEN / "official_names.txt").read_text().splitlines()]
    tensors = {}
    for row, name, shape in rows:
        if row == kind:
            dims = () if shape == "scalar" else tuple(map(int, shape.split("x")))
            tensors[name] = recorder.drawn(name, dims)
    if kind.startswith("deepcluster_") and kind != "deepcluster_v2":
        filters = {"0.weight": np.full((1, 3, 1, 1), 1 / 3), "0.bias": np.zeros(1),
                   "1.weight": SOBEL[:, None], "1.bias": np.zeros(2)}  # fmt: skip
        tensors.update({f"sobel.{k}": v.astype(np.float32) for k, v in filters.items()})
    if kind == "moco_linear_vit":
        tensors["module.pos_embed"] = recorder.positions(4, 384)
    if kind == "beit_pretrained":
        tensors["mask_token"] = recorder.drawn("mask_token", (1, 1, 768))
    return tensors


# container, key of the tensors in the file ('' for none), family
CASES = {
    "deepcluster_alexnet": (legacy_file, "state_dict", "deepcluster"),
    "deepcluster_vgg16": (zip_file, "state_dict", "deepcluster"),
    "deepcluster_v2": (zip_file, "state_dict", "deepcluster_v2"),
    "swav": (legacy_file, "", "deepcluster_v2"),
    "cmc_alexnet": (zip_file, "model", "cmc"),
    "cmc_resnet": (legacy_file, "model", "cmc"),
    "regnet_timm": (zip_file, "model", "regnet_timm"),
    "regnet_torchvision": (zip_file, "", "regnet_torchvision"),
    "beit_pretrained": (zip_file, "model", "beit_pretrained"),
    "vgg": (legacy_file, "", "vgg"),
    "vit_torchvision": (zip_file, "", "vit_torchvision"),
    "moco_linear_resnet": (zip_file, "state_dict", "moco_linear"),
    "moco_linear_vit": (zip_file, "state_dict", "moco_linear"),
}


def written(folder, kind, tensors=None):
    write, key, _ = CASES[kind]
    tensors = state_dict(kind) if tensors is None else tensors
    path = folder / f"{kind}.pth"
    write(path, {key: tensors, "epoch": 200} if key else tensors)
    return path


def pictures(images, config):
    """Normalised pictures [B,C,H,W] as pixels in [0, 1], [B,H,W,C]."""
    mean, deviation = STATISTICS[config.augment.normalize]
    pixels = images.transpose(0, 2, 3, 1) * np.float32(deviation) + np.float32(mean)
    return jnp.asarray(pixels)


def embedded(loaded, images):
    method, _ = build.make_method(loaded.config, axis_name=None)
    return jax.jit(method.embed)(loaded.state, images)


def large():
    return OUTPUTS["large"].repeat(16, 2).repeat(16, 3)


def recorded(kind):
    """What the authors' network computed; of BEiT without the class token."""
    return OUTPUTS[kind][:, 1:] if kind == "beit_pretrained" else OUTPUTS[kind]


def assert_same(result, kind):
    expected = recorded(kind)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 * scale, err_msg=kind)


def result(kind, loaded):
    """What jssl computes where OUTPUTS[kind] was recorded."""
    params, family = loaded.state.params, loaded.family.name
    small = OUTPUTS["small"]
    if family == "cmc":
        net = cmc.make_net(loaded.config, None)
        images = np.tile(small, (1, 1, 4, 4))[:, :, :224, :224].transpose(0, 2, 3, 1)
        variables = {"params": params, "batch_stats": loaded.state.batch_stats}
        inputs = {"l": images[..., :1], "ab": images[..., 1:]}
        z, _, _ = jax.jit(lambda v, x: net.apply(v, x, train=False))(variables, inputs)
        return np.concatenate(z, axis=1)
    if family == "beit_pretrained":
        return token_logits(loaded, small.transpose(0, 2, 3, 1))
    of_224 = kind in ("deepcluster_alexnet", "deepcluster_vgg16", "vgg")
    features, named = embedded(loaded, pictures(large() if of_224 else small, loaded.config))
    if family == "deepcluster":
        top = jax.tree.map(np.asarray, params["top_layer"])
        return np.maximum(features, 0) @ top["kernel"] + top["bias"]
    return named["projection" if family == "deepcluster_v2" else "logits"]


def token_logits(loaded, images):
    """The logits of all patches of a pre-trained BEiT, none of which is masked."""
    net = beit.make_net(loaded.config, None)
    mask, places = np.zeros((2, 4, 4), bool), np.tile(np.arange(16, dtype=np.int32), (2, 1))
    apply = jax.jit(lambda p, x: net.apply({"params": p}, x, False, mask, places))
    return apply(loaded.state.params, images)


@pytest.mark.parametrize("kind", CASES)
def test_the_outputs_are_those_of_the_authors_network(tmp_path, kind):
    loaded = convert.read_pretrained(written(tmp_path, kind))
    assert loaded.family.name == CASES[kind][2]
    assert_same(result(kind, loaded), kind)


def test_the_filter_is_that_of_the_official_code(tmp_path):
    loaded = convert.read_pretrained(written(tmp_path, "deepcluster_vgg16"))
    assert loaded.config.model.sobel
    assert "equal to jssl's" in loaded.dropped["sobel.1.weight"]


def test_another_filter_is_refused(tmp_path):
    tensors = state_dict("deepcluster_vgg16")
    tensors["sobel.1.weight"] = tensors["sobel.1.weight"][::-1].copy()
    path = written(tmp_path, "deepcluster_vgg16", tensors)
    with pytest.raises(UserError, match="is not DeepCluster's"):
        convert.read_pretrained(path)


@pytest.mark.parametrize(("kind", "heads"), [("deepcluster_v2", [12, 10]), ("swav", [12])])
def test_prototypes(tmp_path, kind, heads):
    loaded = convert.read_pretrained(written(tmp_path, kind))
    assert loaded.config.augment.normalize == "swav"
    assert [len(p) for p in loaded.state.prototypes] == heads
    name = "prototypes.prototypes1" if len(heads) == 2 else "prototypes"
    np.testing.assert_array_equal(
        loaded.state.prototypes[-1], state_dict(kind)[f"module.{name}.weight"]
    )


def test_the_views_of_cmc(tmp_path):
    assert "L and ab" in convert.read_pretrained(written(tmp_path, "cmc_resnet")).assumed


def test_timms_vgg_has_torchvisions_tensors_under_other_names():
    lines = (GOLDEN / "official_names.txt").read_text().splitlines()
    shapes = {
        library: {
            name: np.broadcast_to(np.float32(0), tuple(map(int, shape.split("x"))))
            for kind, name, shape in map(str.split, lines)
            if kind == f"names_{library}_vgg" and shape != "scalar"
        }
        for library in ("timm", "torchvision")
    }
    renamed = convert.FAMILIES["vgg"].prepare(shapes["timm"])
    assert {n: x.shape for n, x in renamed.items()} == {
        n: x.shape for n, x in shapes["torchvision"].items()
    }


def dvae_results(loaded):
    """What the two nets of the dVAE compute, by the name under which it was recorded."""
    net, params = dvae.make_net(loaded.config, None), loaded.state.params
    images = jnp.asarray(OUTPUTS["dalle_images"].transpose(0, 2, 3, 1))
    logits, _ = net.encoder.apply({"params": params["encoder"]}, map_pixels(images))
    codes = jax.nn.one_hot(np.argmax(OUTPUTS["dalle_logits"], axis=1), 32)
    decoded = net.decoder.apply({"params": params["decoder"]}, codes)[..., :3]
    restored = unmap_pixels(jax.nn.sigmoid(decoded))
    results = {"dalle_logits": logits, "dalle_pictures": restored}
    return {name: x.transpose(0, 3, 1, 2) for name, x in results.items()}


def test_the_dvae():
    loaded = convert.read_pretrained(GOLDEN / "dalle")
    assert loaded.config.dvae.vocabulary == 32 and loaded.config.dvae.blocks == 1
    for name, value in dvae_results(loaded).items():
        assert_same(value, name)


def test_a_file_of_tensorflow():
    loaded = convert.read_pretrained(GOLDEN / "simclr")
    outputs = np.load(GOLDEN / "simclr_outputs.npz")
    features, named = embedded(loaded, jnp.asarray(outputs["images"]))
    for result, name in ((features, "hidden"), (named["projection"], "projection")):
        scale = np.abs(outputs[name]).max()
        np.testing.assert_allclose(result, outputs[name], rtol=0, atol=1e-5 * scale, err_msg=name)
    assert loaded.config.model.name == "resnet18" and loaded.config.simclr.proj_layers == 3
    assert loaded.dropped["global_step"] == "the number of steps"
    linear = convert.read_pretrained(GOLDEN / "simclr.index", "simclr_linear")
    _, named = embedded(linear, jnp.asarray(outputs["images"]))
    scale = np.abs(outputs["logits"]).max()
    np.testing.assert_allclose(named["logits"], outputs["logits"], rtol=0, atol=1e-5 * scale)


def test_a_file_of_haiku():
    loaded = convert.read_pretrained(GOLDEN / "byol.pkl")
    outputs = np.load(GOLDEN / "byol_outputs.npz")
    images = pictures(outputs["images"].transpose(0, 3, 1, 2), loaded.config)
    features, named = embedded(loaded, images)
    pairs = {"features": features, "projection": named["projection"], "logits": named["logits"]}
    for name, result in pairs.items():
        scale = np.abs(outputs[name]).max()
        np.testing.assert_allclose(result, outputs[name], rtol=0, atol=1e-5 * scale, err_msg=name)
    assert loaded.family.licence.startswith("CC-BY-NC")


def noisy_student():
    """The tensors of a checkpoint of EfficientNet-B0, and what the official code computes."""
    lines = (GOLDEN / "tf_efficientnet_names.txt").read_text().splitlines()
    rows = [line.split() for line in lines]
    tensors = {n: tf_values.value_of(n, [int(d) for d in shape.split("x")]) for n, shape in rows}
    return tensors, np.load(GOLDEN / "tf_efficientnet_outputs.npz")


def test_noisy_students_checkpoint(tmp_path):
    tensors, outputs = noisy_student()
    checkpoint_file(tmp_path / "model.ckpt", tensors)
    loaded = convert.read_pretrained(tmp_path)
    assert loaded.family.name == "efficientnet_tf"
    assert loaded.config.model.name == "efficientnet_b0"
    _, named = embedded(loaded, pictures(outputs["images"].transpose(0, 3, 1, 2), loaded.config))
    scale = np.abs(outputs["logits"]).max()
    np.testing.assert_allclose(named["logits"], outputs["logits"], rtol=0, atol=1e-5 * scale)
