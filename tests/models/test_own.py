"""Networks of the user's own: registered, refused, trained by a method, read again."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jssl
from jssl import models
from jssl.data.photos import load
from jssl.errors import UserError
from jssl.models.own import variables_of


class Tiny(nn.Module):
    """Features without batch normalisation, as a map."""

    @nn.compact
    def __call__(self, x):
        self.sow("intermediates", "x", x)
        scale = self.param("gain", nn.initializers.ones, (1, 1, 1, 8))
        return nn.relu(nn.Conv(8, (3, 3), strides=4)(x)) * scale


class Normalised(nn.Module):
    """Batch normalisation, with the switch as flax's own layers name it."""

    @nn.compact
    def __call__(self, x, deterministic):
        return nn.BatchNorm(use_running_average=deterministic)(x).mean((1, 2))


class Unswitched(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=False)(x).mean((1, 2))


class Dropping(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dropout(0.5, deterministic=not train)(x.mean((1, 2)))


class Two(nn.Module):
    def __call__(self, x):
        return x, x


class Wrong(nn.Module):
    def __call__(self, x):
        return x @ jnp.zeros((7, 7))


@pytest.fixture
def registered():
    yield models.register
    for name in models.registered():
        models.unregister(name)


def test_features_are_those_of_the_module_averaged_over_positions(registered):
    registered("tiny", Tiny())
    net = models.build({**models.DEFAULTS, "name": "tiny"})
    images = jnp.asarray(load("test", 32)[0][:2], jnp.float32)
    variables = net.init(jax.random.key(1), images, train=True)
    features, named = net.apply(variables, images, train=False)
    inner = Tiny().apply({"params": variables["params"]["net"]}, images)
    np.testing.assert_allclose(features, np.asarray(inner).mean((1, 2)), rtol=1e-5)
    assert features.dtype == jnp.float32 and named == {}


@pytest.mark.parametrize("train", [True, False])
def test_the_switch_of_flaxs_layers_is_understood(registered, train):
    registered("normalised", Normalised())
    net = models.build({"name": "normalised"})
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3)) + 5
    variables = net.init(jax.random.key(1), images, train=True)
    features, _ = net.apply(variables, images, train=train, mutable=["batch_stats"])[0]
    assert (np.abs(np.asarray(features)).mean() < 1) == train  # else the running mean is 0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Dropping(), "draws random numbers while it trains, such as those of dropout"),
        (Two(), r"The network Two returned a tuple of 2 for images \[2, 64, 64, 3\]: expected one"),
        (Wrong(), r"cannot be applied to images float32 \[2,64,64,3\]: dot_general requires"),
        (Unswitched(), "no argument that switches to them for evaluation: expected one of train,"),
        (3, "Network 'mine' is a int: expected a flax.linen.Module, or a function"),
        (lambda axis_name, dtype: "x", "Network 'mine' is a str: expected a flax.linen.Module"),
    ],
)
def test_what_cannot_be_trained_is_refused(make, said):
    with pytest.raises(UserError, match=said):
        models.register("mine", make)
    assert "mine" not in models.registered()


def test_names_are_checked(registered):
    with pytest.raises(UserError, match="'resnet50' is a network of jssl"):
        registered("resnet50", Tiny())
    with pytest.raises(UserError, match="Found 'a b' as the name of a network"):
        registered("a b", Tiny())
    with pytest.raises(UserError, match=r"registered first: jssl.models.register\('tiny', make\)"):
        models.build({"name": "tiny"})
    registered("tiny", Tiny())
    with pytest.raises(UserError, match="model.width=2.0 has no effect on 'tiny'"):
        models.build({"name": "tiny", "width": 2.0})


def test_batch_normalisation_without_an_axis_is_refused_on_several_devices(registered):
    registered("normalised", Normalised())
    models.check_devices("normalised", 1)
    with pytest.raises(UserError, match="does not average over the 4 devices"):
        models.check_devices("normalised", 4)
    registered("normalised", lambda axis_name, dtype: Normalised())
    models.check_devices("normalised", 4)
    registered("tiny", Tiny())
    models.check_devices("tiny", 4)


def test_a_module_is_trained_and_read_again(registered, tmp_path):
    images, labels = load("train", 32)
    for i, row in enumerate(np.flatnonzero(labels < 2)[::25]):
        place = tmp_path / "pictures" / str(labels[row])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[row]).save(place / f"{i}.png")
    settings = {"max_steps": 1, "final.enabled": False, "data.held_out": 0, "launch": "jit"}
    run = jssl.train(
        data=tmp_path / "pictures",
        method="supervised",
        model=Tiny(),
        size=32,
        settings=settings,
        workdir=tmp_path / "run",
    )
    assert run.config.model.name == "Tiny" and np.isfinite(run.metrics["loss"])
    assert run.config.optim.rules[-1] == ["", "decay+adapt"]  # of `gain`, which no rule names
    assert set(variables_of("Tiny")["params"]["net"]) == {"Conv_0", "gain"}
    features = jssl.Encoder(run.workdir)(images[:2])
    assert features.shape == (2, 8)
    models.unregister("Tiny")
    with pytest.raises(UserError, match="Unknown model.name 'Tiny'"):
        jssl.load_encoder(run.workdir)
