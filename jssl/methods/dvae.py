"""The discrete VAE that makes visual tokens: the tokenizer of BEiT.

Ramesh et al., ICML 2021, https://arxiv.org/abs/2102.12092, section 2.1 and appendix A.2; networks
from https://github.com/openai/DALL-E, whose training code was not published:

    q(z|x) = softmax(encoder(x))               for each of h x w tokens, over K codes
    z ~ softmax((logits + gumbel) / tau)       relaxed; tau falls along a cosine
    loss = mean over values of -ln p(x|z) + beta / (3 f^2) mean over tokens of KL[q(z|x) || 1/K]

beta rises linearly and stays. -ln p(x|z) is the logit-Laplace one of the paper or the squared
error. In use a token is the code of the largest logit, and the picture is decoded from one-hots.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jssl import losses
from jssl.errors import UserError
from jssl.methods._common import (
    apply_gradients,
    check_make,
    first_state,
    in_32_bits,
    input_functions,
)
from jssl.methods.spec import Inspect, MethodSpec
from jssl.metrics.codebook import codebook_report, codebook_warnings
from jssl.metrics.reconstructions import constant_patch_error, picture_grid
from jssl.models.dvae import Decoder, Encoder, gumbel_softmax, map_pixels, unmap_pixels
from jssl.models.noise import row_numbers
from jssl.parallel.collectives import pmean
from jssl.parallel.microbatches import accumulate_of, accumulated_value_and_grad
from jssl.settings import POSITIVE, Setting, choice, count, each, fraction, non_negative, whole
from jssl.types import Array, Batch, Method, Metrics, RunLengths, TrainState

State = TrainState

SETTINGS: dict[str, Setting] = {
    "vocabulary": Setting(8192, whole(2)),  # K codes
    "hidden": count(256),  # width of the encoder's first group and of the decoder's last
    "initial": count(128),  # width with which the decoder begins
    "groups": count(4),  # a token stands for 2^(groups-1) pixels a side
    "blocks": count(2),  # of a group
    "likelihood": choice("logit_laplace", "squared_error"),  # logit_laplace | squared_error
    "temperature": Setting((1.0, 0.0625), each(POSITIVE, count=2)),  # tau: first and last
    "temperature_share": fraction(0.05),  # of the run, after which tau stands still
    "beta": non_negative(6.6),  # the paper's, see kl_coefficient
    "beta_share": fraction(0.0017),  # of the run, in which beta rises from 0
    "min_perplexity": non_negative(2.0),  # of the codes; below it the monitor warns of collapse
}
SHOWN = 32  # pictures with their reconstructions, spread over those that are inspected


class Net(nn.Module):
    """Encoder and decoder.

    A call goes through both: pixels [B,H,W,3] in [0, 1], key, numbers [B] of the images in the
    global batch, temperature -> (output of the decoder [B,H,W,C], logits [B,h,w,K]).
    """

    encoder: Encoder
    decoder: Decoder

    def __call__(self, images: Array, key: Array, rows: Array, temperature: Array | float):
        logits, _ = self.encode(images)
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
        z = jax.vmap(lambda k, l: gumbel_softmax(k, l, temperature=temperature))(keys, logits)
        return self.decoder(z), logits

    def encode(self, images: Array):
        """Pixels [B,H,W,3] in [0, 1] -> (logits [B,h,w,K], features [B,h,w,D])."""
        return self.encoder(map_pixels(images))

    def decode(self, tokens: Array):
        """int32 [B,h,w] -> pixels [B,H,W,3] in [0, 1]."""
        z = jax.nn.one_hot(tokens, self.encoder.vocabulary)
        return unmap_pixels(jax.nn.sigmoid(self.decoder(z)[..., :3]))


def make_encoder(settings: Any, dtype: Any) -> Encoder:
    """The encoder of a config's `dvae` section."""
    return Encoder(
        settings.vocabulary, settings.hidden, settings.groups, settings.blocks, dtype=dtype
    )


def make_net(config: Any, axis_name: str | None) -> Net:
    """The network of a config; it has no statistics, so `axis_name` is not needed."""
    s, dtype = config.dvae, jnp.dtype(config.dtype)
    channels = 6 if s.likelihood == "logit_laplace" else 3
    decoder = Decoder(channels, s.initial, s.hidden, s.groups, s.blocks, dtype=dtype)
    return Net(make_encoder(s, dtype), decoder)


def kl_coefficient(*, beta: float, downsampling: int) -> float:
    """Returns the factor of the KL's mean over tokens that gives the paper's beta.

    The paper divides the whole bound by the 3 H W values of an image: beta KL becomes beta times
    the SUM over h w tokens / (3 H W), which is beta / (3 f^2) times their MEAN where every token
    stands for f x f pixels. For its 256 px and f = 8: beta / 192. (A KL that is summed over batch
    and tokens, as some public trainers have it, is B h w times the mean.)

    Args:
        beta: of the paper, whose last is 6.6.
        downsampling: f, pixels along the side of a token.

    Returns:
        beta / (3 f^2).

    Raises:
        ValueError: a side below 1.

    Example:
        >>> round(1 / kl_coefficient(beta=1.0, downsampling=8))
        192

    Reference: https://arxiv.org/abs/2102.12092, appendix A.2; the division:
        https://github.com/openai/DALL-E/issues/8.
    """
    if downsampling < 1:
        raise ValueError(
            f"kl_coefficient expects a downsampling of 1 or more, found {downsampling}"
        )
    return beta / (3 * downsampling**2)


def temperature_at(step: Array, *, first: float, last: float, steps: int) -> Array:
    """tau: a cosine from `first` at step 0 to `last` at `steps`, and then `last`.

    Example:
        >>> [round(float(temperature_at(s, first=1.0, last=0.5, steps=10)), 4) for s in (0, 5, 99)]
        [1.0, 0.75, 0.5]
    """
    progress = jnp.minimum(jnp.asarray(step, jnp.float32) / steps, 1.0)
    return last + (first - last) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


def schedules(config: Any, lengths: RunLengths) -> dict[str, Callable[[Array], Array]]:
    """Returns the schedules of temperature and KL weight: {name: f(step)}."""
    s, total = config.dvae, lengths.total_steps
    tau_steps = max(1, round(s.temperature_share * total))
    beta_steps = max(1, round(s.beta_share * total))

    def beta(step: Array) -> Array:
        return s.beta * jnp.minimum(jnp.asarray(step, jnp.float32) / beta_steps, 1.0)

    first, last = s.temperature
    temperature = functools.partial(temperature_at, first=first, last=last, steps=tau_steps)
    return {"temperature": temperature, "beta": beta}


@in_32_bits
def make(
    config: Any,
    tx: optax.GradientTransformation,
    lengths: RunLengths,
    *,
    axis_name: str | None = None,
) -> Method:
    """Makes the dVAE's pure functions.

    Args:
        config: from `jssl.config.base('dvae', preset=...)`.
        tx: the optimiser.
        lengths: of the run, counted before it begins.
        axis_name: the batch axis, None on one device.

    Returns:
        A `Method`; its step logs `loss`, `reconstruction` (mean over values), `kl` (nats, mean
        over tokens), `temperature`, `beta`, and of the codes of this batch `perplexity` and
        `codes_used`. `embed` gives the encoder's last features, averaged over places, and names
        `tokens` int32 [B,h,w] and `reconstruction` [B,H,W,3] in [0, 1].

    Raises:
        UserError: an unknown likelihood, a temperature that is not positive, a `model` section
            that says something else.
    """
    check_make("dvae", config, lengths, SETTINGS)
    settings = config.dvae
    _check(config)
    net, accumulate = make_net(config, axis_name), accumulate_of(config)
    views, prepare = input_functions(config)
    moving = schedules(config, lengths)
    scale = kl_coefficient(beta=1.0, downsampling=2 ** (settings.groups - 1))

    def init(key: Array, batch: Batch) -> State:
        images = prepare(views(key, batch["image"], jnp.int32(0))[0])
        variables = net.init(key, images, key, jnp.arange(len(images)), 1.0)
        return first_state(State, key, variables, tx)

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        view_key, noise_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        tau, beta = moving["temperature"](state.step), moving["beta"](state.step)

        def loss_fn(params, images, numbers):
            x = prepare(views(view_key, images, numbers)[0])
            rows = row_numbers(numbers, len(images), axis_name)
            outputs: Any = net.apply({"params": params}, x, noise_key, rows, tau)
            out, logits = outputs
            if settings.likelihood == "logit_laplace":
                nll = losses.logit_laplace_nll(map_pixels(x), out[..., :3], out[..., 3:])
            else:
                nll = losses.squared_error(map_pixels(x), jax.nn.sigmoid(out))
            kl = jnp.mean(losses.kl_to_uniform(logits))
            tokens = jnp.argmax(logits, axis=-1).reshape(-1)
            share = jnp.zeros(settings.vocabulary).at[tokens].add(1 / tokens.size)
            return jnp.mean(nll) + beta * scale * kl, (jnp.mean(nll), kl, share)

        (loss, (nll, kl, share)), grads = accumulated_value_and_grad(
            loss_fn, state.params, batch["image"], accumulate=accumulate, axis_name=axis_name
        )
        share = pmean(share, axis_name)
        metrics = {
            "loss": loss,
            "reconstruction": pmean(nll, axis_name),
            "kl": pmean(kl, axis_name),
            "temperature": tau,
            "beta": beta,
            "perplexity": jnp.exp(-jnp.sum(share * jnp.log(jnp.maximum(share, 1e-30)))),
            "codes_used": jnp.sum(share > 0).astype(jnp.float32),
            "grad_norm": optax.tree.norm(grads),
        }
        return apply_gradients(state, grads, {}, tx), metrics

    def embed(state: State, images: Array) -> tuple[Array, dict[str, Array]]:
        variables = {"params": state.params}
        encoded: Any = net.apply(variables, prepare(images), method="encode")
        logits, features = encoded
        tokens = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        pictures: Any = net.apply(variables, tokens, method="decode")
        mean = jnp.mean(features, axis=(1, 2))
        return mean, {"tokens": tokens, "reconstruction": pictures}

    return Method(init, train_step, embed, views)


def inspect(config: Any, outputs: Any, batch: Any) -> Any:
    """Reports the tokens and reconstructions of images.

    Args:
        config: the whole config.
        outputs: `tokens` int [M,h,w] and `reconstruction` float [M,H,W,3], of `embed`.
        batch: `image` uint8 [M,H,W,3].

    Returns:
        (scalars, warnings, pictures): the codebook's usage; the mean squared error of the
        reconstruction and its ratio to that of the best constant colour of each patch; a picture
        uint8 with images in even rows and their reconstructions below.
    """
    s = config.dvae
    report = codebook_report(outputs["tokens"], vocabulary=s.vocabulary)
    images = np.asarray(batch["image"], np.float32) / 255
    reconstruction = outputs["reconstruction"]
    error = float(np.mean((reconstruction - images) ** 2))
    constant = constant_patch_error(images, patch=2 ** (s.groups - 1))
    scalars = {
        **{f"codes/{key}": value for key, value in report.items()},
        "reconstruction_mse": error,
        "reconstruction_mse_ratio": error / max(constant, 1e-12),
    }
    warnings = codebook_warnings(report, min_perplexity=s.min_perplexity)
    shown = np.linspace(0, len(images) - 1, min(SHOWN, len(images))).astype(int)  # of all classes
    pictures = picture_grid(images[shown], reconstruction[shown])
    return scalars, warnings, {"reconstructions": pictures}


def _check(config: Any) -> None:
    if config.model.name != "dvae":
        raise UserError(
            f"The dVAE's network is described by config.dvae; found model.name="
            f"'{config.model.name}'. Type --config.model.name=dvae."
        )
    if config.augment.normalize != "none":
        raise UserError(
            "The dVAE looks at pixels in [0, 1], which it moves to [0.1, 0.9] itself; found "
            f"augment.normalize='{config.augment.normalize}'. Type --config.augment.normalize=none."
        )


SPEC = MethodSpec(
    make=make,
    settings=SETTINGS,
    colours="it reconstructs red, green and blue",
    state=State,
    num_crops=1,
    inspect=Inspect(("tokens", "reconstruction"), inspect),
    schedules=schedules,
    accumulates=True,
)
