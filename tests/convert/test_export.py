"""Exports against what timm, torch and transformers made of them: names, configs and outputs.

Recorded by tests/reference/record_exports.py, where these libraries loaded what jssl wrote.
"""

import json
import sys
import warnings

import jax
import numpy as np
import pytest
from convert.export_runs import KINDS, config_of, drawn, drawn_run, pictures
from helpers import ROOT
from safetensors.numpy import load_file

import jssl
from jssl import convert
from jssl.convert.export import card, names
from jssl.convert.network import read_network
from jssl.errors import UserError
from jssl.main import main
from jssl.run import checkpoint

GOLDEN = ROOT / "tests" / "golden"
OUTPUTS = np.load(GOLDEN / "exports_outputs.npz")
CONFIGS = json.loads((GOLDEN / "exports_configs.json").read_text())
# What each format does not take.
REFUSED = {
    ("encoder", "timm"): r"found model.width=0.25, expected 1.0. Type --format=safetensors",
    ("cifar_stem", "timm"): "found model.stem='cifar', expected 'imagenet'",
    ("moco_v3", "safetensors"): "found model.heads=12, expected 0. Type --format=timm",
}


def recorded(kind, form):
    """Name -> shape in the library that loaded it."""
    rows = [line.split() for line in (GOLDEN / "exports_names.txt").read_text().splitlines()]
    return {
        name: () if shape == "scalar" else tuple(map(int, shape.split("x")))
        for row_kind, row_form, name, shape in rows
        if (row_kind, row_form) == (kind, form)
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    made = {}

    def run(kind):
        if kind not in made:
            made[kind] = drawn_run(config_of(kind), folder / kind)
        return made[kind]

    return run


def read_back(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a bare file does not say
        return jssl.load_pretrained(path)


def encoder_and_classifier(params):
    return {k: v for k, v in params.items() if k in ("encoder", *names.CLASSIFIERS)}


WAYS = [
    *[(kind, "timm") for kind in KINDS],
    *[(kind, "safetensors") for kind in ("encoder", "cifar_stem", "deit", "moco_v3", "beit")],
]


@pytest.mark.parametrize(("kind", "form"), WAYS)
def test_names_values_and_the_way_back(runs, tmp_path, kind, form):
    output = tmp_path / ("x" if form == "timm" else "x.safetensors")
    if (kind, form) in REFUSED:
        with pytest.raises(UserError, match=REFUSED[kind, form]):
            convert.export_run(runs(kind), output, form)
        assert not list(tmp_path.iterdir())
        return
    network, (path, *_) = convert.export_run(runs(kind), output, form)
    tensors = load_file(path / "model.safetensors" if form == "timm" else path)
    if f"{kind}_timm" in CONFIGS:  # the files of both formats hold the same tensors
        assert {name: x.shape for name, x in tensors.items()} == recorded(kind, "timm")
    if form == "timm":
        assert json.loads((path / "config.json").read_text()) == CONFIGS[f"{kind}_timm"]
    embed, state = read_back(path)
    if kind not in ("beit_shared", "moco_v3"):  # their tables and positions are stored otherwise
        read = checkpoint.flat_leaves(encoder_and_classifier(state.params))
        own = checkpoint.flat_leaves(encoder_and_classifier(network.params))
        if "classifier" not in network.params:
            read = {k: v for k, v in read.items() if not k.startswith("classifier.")}
        assert read.keys() == own.keys()
        for name, leaf in own.items():
            np.testing.assert_array_equal(read[name], leaf, err_msg=name)
        statistics = checkpoint.flat_leaves(network.batch_stats.get("encoder", {}))
        for name, leaf in statistics.items():
            found = checkpoint.flat_leaves(state.batch_stats["encoder"])[name]
            np.testing.assert_array_equal(found, leaf, err_msg=name)
    if form == "timm":
        compare_outputs(kind, *jax.jit(embed)(state, pictures(KINDS[kind][1])))


HF = [kind for kind in KINDS if f"{kind}_hf" in CONFIGS]


@pytest.mark.parametrize("kind", HF)
def test_a_folder_of_transformers(runs, tmp_path, kind):
    network, (path,) = convert.export_run(runs(kind), tmp_path / "x", "hf")
    tensors = load_file(path / "model.safetensors")
    assert {name: x.shape for name, x in tensors.items()} == recorded(kind, "hf")
    assert json.loads((path / "config.json").read_text()) == CONFIGS[f"{kind}_hf"]
    about = json.loads((path / "preprocessor_config.json").read_text())
    assert about["size"] == {"shortest_edge": int(KINDS[kind][1] / 0.875)}
    assert about["image_mean"] == card.preprocessing(network.config)["mean"]
    # Every value that timm's folder has, in the order of the file: q, k and v are one tensor there.
    values = np.concatenate([np.sort(x.ravel()) for x in names.named_tensors(network)[0].values()])
    own = [x.ravel() for x in tensors.values() if x.ndim]
    np.testing.assert_array_equal(np.sort(np.concatenate(own)), np.sort(values))
    if kind != "moco_v3":  # a ViT of transformers with other heads is not read
        loaded = convert.read_pretrained(path)
        assert loaded.config.augment.normalize == network.config.augment.normalize
        for name, leaf in checkpoint.flat_leaves(network.params["encoder"]).items():
            if name != "relative_table" and name != "mask_token":
                read = checkpoint.flat_leaves(loaded.state.params["encoder"])[name]
                np.testing.assert_array_equal(read, leaf, err_msg=name)
    if f"{kind}_timm_logits" in OUTPUTS:
        expected = OUTPUTS[f"{kind}_timm_logits"]
        atol = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(OUTPUTS[f"{kind}_hf_logits"], expected, rtol=0, atol=atol)


def test_queries_keys_and_values_are_split(runs, tmp_path):
    _, (path,) = convert.export_run(runs("beit"), tmp_path / "x", "hf")
    tensors = load_file(path / "model.safetensors")
    kernel = drawn("params.encoder.block1.qkv.kernel", (192, 3 * 192))
    start = "beit.encoder.layer.1.attention.attention."
    for i, name in enumerate(("query", "key", "value")):
        part = kernel[:, 192 * i : 192 * (i + 1)]
        np.testing.assert_array_equal(tensors[f"{start}{name}.weight"], part.T)
    np.testing.assert_array_equal(
        tensors[f"{start}value.bias"], drawn("params.encoder.block1.v_bias", (192,))
    )
    assert f"{start}key.bias" not in tensors


def compare_outputs(kind, features, named):
    """Against timm's outputs: of the exported folder, on the same pictures."""
    for name, value in {"features": features, "logits": named["logits"]}.items():
        key = f"{kind}_timm_{name}"
        if key in OUTPUTS:
            expected = OUTPUTS[key]
            atol = 1e-5 * np.abs(expected).max()
            np.testing.assert_allclose(value, expected, rtol=0, atol=atol, err_msg=name)


def test_a_value_of_each_layout(runs, tmp_path):
    _, (path, _) = convert.export_run(runs("resnet10"), tmp_path / "x.safetensors", "safetensors")
    tensors = load_file(path)
    kernel = drawn("params.encoder.block_group2_block0_conv1.kernel", (3, 3, 128, 128))
    np.testing.assert_array_equal(tensors["layer2.0.conv2.weight"], kernel.transpose(3, 2, 0, 1))
    dense = drawn("params.classifier.kernel", (512, 10))
    np.testing.assert_array_equal(tensors["fc.weight"], dense.T)


def test_which_weights_go_out(runs, tmp_path, capsys):
    run = runs("deit_distilled")
    for which, field, said in (
        (None, "average", "the averaged weights of step 0, which the run's own evaluation uses"),
        ("averaged", "average", "the averaged weights"),
        ("online", "params", "the online weights of step 0, not those that are judged"),
    ):
        output = tmp_path / f"{which}.safetensors"
        flags = ["export", f"--workdir={run}", f"--output={output}", "--format=safetensors"]
        main(flags + ([f"--which={which}"] if which else []))
        assert said in capsys.readouterr().out
        assert said in output.with_suffix(".md").read_text()
        expected = drawn(f"{field}.encoder.patch_embed.kernel", (16, 16, 3, 192))
        found = load_file(output)["patch_embed.proj.weight"]
        np.testing.assert_array_equal(found, expected.transpose(3, 2, 0, 1))
    online = read_network(run, which="online")
    np.testing.assert_array_equal(
        online.state.average["encoder"]["patch_embed"]["kernel"],
        drawn("params.encoder.patch_embed.kernel", (16, 16, 3, 192)),
    )
    with pytest.raises(UserError, match="keeps no averaged weights: type --which=online"):
        convert.export_run(runs("encoder"), tmp_path / "x.safetensors", "safetensors",
                           which="averaged")  # fmt: skip
    with pytest.raises(UserError, match="Unknown --which=average: did you mean 'averaged'"):
        read_network(run, which="average")
    with pytest.raises(UserError, match="checkpoint"):
        read_network(run, step=7)


NUMBER = {"top1": 0.5, "ci95": [0.4, 0.6], "count": 9, "feature": "trained", "protocol": "k=20"}


def test_the_card_says_how_the_weights_were_judged(runs, tmp_path):
    run = runs("encoder")
    assert "The run has not been evaluated" in card.card(read_network(run), "x", {}, use="")
    rows = [{"probe": "kNN", "protocol": "k=20", "numbers": {"trained": NUMBER}}]
    (run / "result.json").write_text(json.dumps({"steps": 4, "rows": rows}))
    (run / "evaluation").mkdir()
    record = {"checkpoint": {"step": 3}, "rows": rows}
    (run / "evaluation" / "knn.json").write_text(json.dumps(record))
    (run / "weights.json").write_text(json.dumps({"licence": "CC-BY-NC 4.0"}))
    _, (_, path) = convert.export_run(run, tmp_path / "x.safetensors", "safetensors")
    text = path.read_text()
    for fact in (
        "method: simclr", "data: photos", "left out: projector", "licence: CC-BY-NC 4.0",
        "short side to 73 px (bicubic), then the central 64 x 64 px (crop 0.875)",
        "minus the mean [0.0, 0.0, 0.0]", '"width": 0.25',
        "| 4 | kNN | trained | top-1 | 50.0 | 40.0 - 60.0 | k=20 |", "| 3 | kNN | trained |",
    ):  # fmt: skip
        assert fact in text, fact
    (run / "result.json").write_text('{"rows": [3]}')
    with pytest.raises(UserError, match="is no record of an evaluation"):
        convert.export_run(run, tmp_path / "y.safetensors", "safetensors")
    assert not (tmp_path / "y.safetensors").exists()
    for name in ("result.json", "weights.json", "evaluation/knn.json"):
        (run / name).unlink()
    (run / "evaluation").rmdir()


def test_the_pixels_of_a_bare_file_are_read_back(runs, tmp_path):
    _, (path, _) = convert.export_run(runs("cifar_stem"), tmp_path / "x.safetensors", "safetensors")
    loaded = convert.read_pretrained(path)
    assert (loaded.config.augment.normalize, loaded.config.augment.size) == ("cifar10", 32)
    assert loaded.assumed == "" and loaded.absent == ("classifier",)
    with pytest.warns(UserWarning, match="untrained here: classifier"):
        jssl.load_pretrained(path)


@pytest.mark.parametrize(
    ("kind", "form", "changes", "match"),
    [
        ("encoder", "safetensors", {"padding": "same"}, "padding='same', expected 'symmetric'"),
        ("encoder", "torch", {"sobel": True}, "sobel=True, expected False. Type --format=onnx"),
        ("encoder", "hf", {"bn_epsilon": 1e-3}, "model.bn_epsilon=0.001"),
        ("encoder", "timm", {"shortcut": "always"}, "model.shortcut='always'"),
        ("resnet50", "timm", {"norm": "ln"}, "resnet50 of timm .* model.norm='ln'"),
        ("cifar_stem", "timm", {"stem": "imagenet"}, "name='resnet14', expected 'resnet18'"),
        ("efficientnet", "safetensors", {"bn_epsilon": 1e-5}, "--format=timm or --format=onnx"),
        ("efficientnet", "timm", {"small_images": True}, "small_images=True"),
        ("efficientnet", "hf", {}, "--format=hf has no 'efficientnet_b0'.*--format=safetensors"),
        ("deit", "timm", {"layer_scale": 0.1}, "layer_scale=0.1, expected 0.0"),
        ("beit", "timm", {"position": "learned"}, "position='learned', expected 'none'"),
        ("encoder", "timm", {"name": "vgg16"}, "network 'vgg16': expected one of ResNets"),
    ],
)
def test_a_network_that_the_library_does_not_have(kind, form, changes, match):
    from jssl.convert.export.checks import check_network

    with pytest.raises(UserError, match=match):
        check_network(config_of(kind, **changes), ("encoder",), form)


def test_a_distillation_token_needs_both_classifiers():
    from jssl.convert.export.checks import check_network

    with pytest.raises(UserError, match="average what two classifiers say"):
        check_network(config_of("deit_distilled"), ("encoder",), "timm")


def test_outputs_that_cannot_be_written(runs, tmp_path, monkeypatch):
    network = read_network(runs("encoder"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    for form, name, match in (
        ("safetensors", "x.bin", "must end with .safetensors"),
        ("torch", "x.bin", "must end with .pth"),
        ("timm", "full", "full' exists: expected a new folder"),
        ("timm", "absent/x", "cannot be written"),
        ("safetensors", "absent/x.safetensors", "cannot be written"),
    ):
        with pytest.raises(UserError, match=match):
            convert.FORMATS[form](network, tmp_path / name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="torch, which is not installed.*--format=safetensors"):
        convert.FORMATS["torch"](network, tmp_path / "x.pth")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]
