"""Records tests/golden/cpc_tf.npz: CPC v2's published listing, run by TensorFlow in float64.

By hand, once, with TensorFlow 2.21.0 (CPU):

    python tests/reference/record_cpc_tf.py

There is no official code; the appendix of https://arxiv.org/abs/1905.09272 lists the context
network and the loss of one direction. Here they are in own words on TensorFlow's operations. What
the listing leaves open is settled so:

* Its convolutions are its library's: padding SAME unless it says VALID, a bias on each. The one on
  the targets has a bias too, which shifts all logits of a prediction alike.
* Its cross entropy is not defined: each term is recorded, and the mean over them is the loss of an
  offset, as in every public implementation that keeps the rest of the listing.
* `steps_to_predict` is where its range ends, not how many steps there are: from 2 to 3 is offset 3.
* The listing is one direction. The text has four, each with a context network of its own; here the
  GRID is rotated by quarter turns, until the direction goes down.

Two cases: "wide", 7 rows of 5 columns, steps 1 to 4, the listing's 5 blocks, one direction;
"square", 6x6, the listing's own steps, 2 blocks, four directions. Weights of the directions and
blocks are stacked.
"""

import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "cpc_tf.npz"
LATENT, HIDDEN, TARGET = 6, 5, 4
KERNELS = {"in": (1, 1), "row": (1, 3), "down": (2, 1), "out": (1, 1)}
# quarter turns against the clock that make the direction go down the rows
TURNS = {"down": 0, "left": 1, "up": 2, "right": 3}
CASES = {  # [B,h,w], steps, blocks, directions
    "wide": ((3, 7, 5), (1, 4), 5, ("down",)),
    "square": ((4, 6, 6), (2, 3), 2, tuple(TURNS)),
}


def draw(rng, steps, blocks):
    """The weights of one direction, of float32's values; biases are far from 0."""
    weights = {}
    for part, (height, width) in KERNELS.items():
        channels = LATENT if part == "in" else HIDDEN
        features = LATENT if part == "out" else HIDDEN
        shape = (blocks, height, width, channels, features)
        deviation = (height * width * channels) ** -0.5
        weights[f"{part}_kernel"] = deviation * rng.normal(size=shape)
        weights[f"{part}_bias"] = 0.5 * rng.normal(size=(blocks, features))
    weights["target_kernel"] = 1.2 * rng.normal(size=(1, 1, LATENT, TARGET))
    weights["target_bias"] = rng.normal(size=(TARGET,))
    count = steps[1] - steps[0]
    weights["predict_kernel"] = 1.2 * rng.normal(size=(count, 1, 1, LATENT, TARGET))
    weights["predict_bias"] = rng.normal(size=(count, TARGET))
    return {k: v.astype(np.float32) for k, v in weights.items()}


def run(latents, weights, steps, scale=0.1):
    """The listing: context, and terms, labels, predictions of each step, and targets."""
    import tensorflow as tf

    def convolve(x, name, i=None, padding="SAME"):
        kernel, bias = weights[f"{name}_kernel"], weights[f"{name}_bias"]
        if i is not None:
            kernel, bias = kernel[i], bias[i]
        return tf.nn.bias_add(tf.nn.conv2d(x, kernel, strides=1, padding=padding), bias)

    context = latents
    for i in range(weights["in_bias"].shape[0]):
        y = tf.nn.relu(convolve(context, "in", i))
        y = convolve(y, "row", i)
        y = tf.pad(y, [[0, 0], [1, 0], [0, 0], [0, 0]])  # zeros, above the first row
        y = tf.nn.relu(convolve(y, "down", i, padding="VALID"))
        context = context + convolve(y, "out", i)
    context = tf.nn.relu(context)

    targets = convolve(latents, "target")
    batch, height, width, dim = targets.shape
    flat = tf.reshape(targets, [-1, dim])
    found = {"context": context, "targets": targets}
    for n, step in enumerate(range(*steps)):
        predicted = height - step - 1  # rows that have a target
        predictions = scale * convolve(context, "predict", n)[:, :predicted]
        logits = tf.linalg.matmul(tf.reshape(predictions, [-1, dim]), flat, transpose_b=True)
        image, place = np.divmod(np.arange(batch * predicted * width), predicted * width)
        labels = (image * height + step + 1) * width + place
        terms = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        shape = (batch, predicted, width)
        found[f"labels{step + 1}"] = labels.reshape(shape)
        found[f"terms{step + 1}"] = tf.reshape(terms, shape)
        found[f"predictions{step + 1}"] = predictions
    return found


def record(case):
    import tensorflow as tf

    shape, steps, blocks, directions = CASES[case]
    rng = np.random.default_rng(len(case))
    latents = rng.normal(size=(*shape, LATENT)).astype(np.float32)
    drawn = [draw(rng, steps, blocks) for _ in directions]
    variables = [{k: tf.Variable(v, dtype=tf.float64) for k, v in w.items()} for w in drawn]
    grid = tf.Variable(latents, dtype=tf.float64)
    found, losses = [], []
    with tf.GradientTape(persistent=True) as tape:
        for direction, weights in zip(directions, variables, strict=True):
            found.append(run(tf.image.rot90(grid, TURNS[direction]), weights, steps))
            terms = [v for k, v in found[-1].items() if k.startswith("terms")]
            losses.append(tf.add_n([tf.reduce_mean(t) for t in terms]))
        total = tf.add_n(losses)
    out = {"latents": latents, "loss": np.stack(losses)}
    out["gradient_latents"] = tape.gradient(total, grid).numpy()
    for k in drawn[0]:
        out[f"weight_{k}"] = np.stack([w[k] for w in drawn])
        gradients = [tape.gradient(total, w[k]) for w in variables]
        out[f"gradient_{k}"] = np.stack([g.numpy() for g in gradients])
    for k in found[0]:
        out[k] = np.stack([np.asarray(f[k]) for f in found])
    types = {np.dtype(np.float64): np.float32, np.dtype(np.int64): np.int32}
    return {f"{case}_{k}": v.astype(types.get(v.dtype, v.dtype)) for k, v in out.items()}


def main():
    arrays = {k: v for case in CASES for k, v in record(case).items()}
    np.savez_compressed(GOLDEN, **arrays)
    for k, v in arrays.items():
        if "loss" in k or "target_bias" in k:
            print(k, v)
    print(f"{GOLDEN.name}: {GOLDEN.stat().st_size / 1024:.0f} KB, {len(arrays)} arrays")


if __name__ == "__main__":
    main()
