"""CPC's loss and context against loops of the equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import losses
from jssl.models.pixelcnn import PixelCNN


def naive(predictions, targets, offset, scale=0.1):
    """Equation 2, one prediction at a time; the mean for each image."""
    B, h, w, _ = targets.shape
    out = np.zeros(B)
    for b in range(B):
        terms = []
        for r in range(h - offset):
            for c in range(w):
                scores = {
                    (i, j, k): scale * float(predictions[b, r, c] @ targets[i, j, k])
                    for i in range(B)
                    for j in range(h)
                    for k in range(w)
                }
                total = np.log(sum(np.exp(s) for s in scores.values()))
                terms.append(total - scores[b, r + offset, c])
        out[b] = np.mean(terms)
    return out


def arrays(B=4, h=5, w=3, d=6, offset=2):
    rng = np.random.default_rng(0)
    predictions = rng.normal(size=(B, h - offset, w, d)).astype(np.float32) * 3
    return predictions, rng.normal(size=(B, h, w, d)).astype(np.float32) * 3


@pytest.mark.parametrize("offset", [1, 2, 4])
def test_loss_equals_the_equation(offset):
    p, t = arrays(offset=offset)
    result = losses.patch_info_nce(p, t, offset=offset)
    np.testing.assert_allclose(result, naive(p, t, offset), rtol=2e-5)


def test_labels_are_the_indices_of_the_targets():
    B, h, w, offset = 3, 5, 4, 2
    flat = {}
    for b in range(B):
        for r in range(h):
            for c in range(w):
                flat[b, r, c] = len(flat)
    result = losses.patch_labels(0, batch=B, rows=h, columns=w, offset=offset)
    assert result.shape == (B, h - offset, w)
    for (b, r, c), label in np.ndenumerate(np.asarray(result)):
        assert label == flat[b, r + offset, c]
    later = losses.patch_labels(7, batch=1, rows=h, columns=w, offset=offset)
    np.testing.assert_array_equal(later[0], result[0] + 7 * h * w)


def test_permuting_images_permutes_the_losses():
    p, t = arrays()
    order = np.array([2, 0, 3, 1])
    a = losses.patch_info_nce(p, t, offset=2)
    b = losses.patch_info_nce(p[order], t[order], offset=2)
    np.testing.assert_allclose(b, a[order], rtol=1e-5)
    assert np.std(a) > 0.01


def test_every_position_of_every_image_is_a_negative():
    p, t = arrays()
    grad = jax.grad(lambda t: losses.patch_info_nce(p, t, offset=2)[1])(jnp.asarray(t))
    assert (np.abs(grad).max(axis=-1) > 0).all()  # image 1's loss, all images and rows
    grouped = jax.grad(lambda t: losses.patch_info_nce(p, t, offset=2, groups=2)[1])(jnp.asarray(t))
    assert (np.abs(grouped[:2]).max(axis=-1) > 0).all() and not np.any(grouped[2:])
    parts = [naive(p[i : i + 2], t[i : i + 2], 2) for i in (0, 2)]
    result = losses.patch_info_nce(p, t, offset=2, groups=2)
    np.testing.assert_allclose(result, np.concatenate(parts), rtol=2e-5)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_four_devices_equal_one(groups):
    p, t = (jnp.asarray(x) for x in arrays())

    def mean(p, t, axis_name=None):
        return losses.patch_info_nce(p, t, offset=2, groups=groups, axis_name=axis_name)

    split = lambda x: x.reshape(2, 2, *x.shape[1:])  # noqa: E731
    spread = jax.vmap(lambda p, t: mean(p, t, "i"), axis_name="i")
    np.testing.assert_allclose(spread(split(p), split(t)).reshape(4), mean(p, t), rtol=1e-5)
    a = jax.grad(lambda t: jnp.sum(spread(split(p), split(t))))(t)
    b = jax.grad(lambda t: jnp.sum(mean(p, t)))(t)
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_loss_at_uniform_logits():
    t = jnp.ones((16, 6, 6, 8))
    result = losses.patch_info_nce(jnp.zeros((16, 3, 6, 8)), t, offset=3)
    np.testing.assert_allclose(result, 6.3561, atol=1e-4)  # ln(16 * 36)


def test_invalid_arguments():
    p, t = arrays()
    with pytest.raises(ValueError, match=r"offset 1"):
        losses.patch_info_nce(p, t, offset=1)
    with pytest.raises(ValueError, match="3 groups"):
        losses.patch_info_nce(p, t, offset=2, groups=3)
    with pytest.raises(ValueError, match="no target"):
        losses.patch_labels(0, batch=1, rows=3, columns=3, offset=3)


def test_context_depends_on_its_row_and_those_above():
    net = PixelCNN(blocks=5, hidden=8)
    x = jax.random.normal(jax.random.key(0), (1, 6, 6, 4))
    params = net.init(jax.random.key(1), x)

    def before_the_last_relu(x):  # units that it closes would hide what they see
        return net.apply(params, x + 0.0)

    jacobian = jax.jacrev(before_the_last_relu)(x)[0, :, :, :, 0]  # [6,6,4,6,6,4]
    seen = np.abs(jacobian).max(axis=(1, 2, 4, 5))  # context row, latent row
    for i in range(6):
        for j in range(6):
            assert (seen[i, j] > 0) == (j <= i), (i, j)
    columns = np.abs(jacobian).max(axis=(0, 2, 3, 5))
    assert (columns > 0).all()


def naive_block(x, p, i):
    """One block by loops over taps, zeros outside."""
    relu = lambda a: np.maximum(a, 0)  # noqa: E731
    get = lambda part: (p[f"block{i}_{part}"]["kernel"], p[f"block{i}_{part}"]["bias"])  # noqa: E731
    k, b = get("in")
    y = relu(x @ k[0, 0] + b)
    h, w, _ = y.shape
    k, b = get("row")
    row = np.zeros_like(y) + b
    for r in range(h):
        for c in range(w):
            for d in (-1, 0, 1):
                if 0 <= c + d < w:
                    row[r, c] += y[r, c + d] @ k[0, d + 1]
    k, b = get("down")
    down = np.zeros_like(y) + b
    for r in range(h):
        down[r] += row[r] @ k[1, 0]
        if r > 0:  # the row on top of the first is zeros, not ones
            down[r] += row[r - 1] @ k[0, 0]
    k, b = get("out")
    return x + relu(down) @ k[0, 0] + b


def test_context_equals_the_equation_with_zero_padding():
    net = PixelCNN(blocks=2, hidden=5)
    x = jax.random.normal(jax.random.key(0), (2, 4, 3, 4))
    p = net.init(jax.random.key(1), x)["params"]
    # biases start at 0 and would hide what the border is filled with
    p = jax.tree.map(lambda a: a + 0.3 if a.ndim == 1 else a, p)
    p = jax.tree.map(np.asarray, p)
    result = net.apply({"params": p}, x)
    for b in range(2):
        expected = np.maximum(naive_block(naive_block(np.asarray(x[b]), p, 0), p, 1), 0)
        np.testing.assert_allclose(result[b], expected, atol=1e-5)


def test_the_raw_form_is_the_equation_of_the_paper():
    """-sum_ijk log(exp(z_hat^T z) / (exp(z_hat^T z) + sum_l exp(z_hat^T z_l))), z_hat = W_k c."""
    rng = np.random.default_rng(3)
    B, h, w, D, offsets = 3, 5, 2, 4, (2, 3)
    z, c = rng.normal(size=(B, h, w, D)), rng.normal(size=(B, h, w, D))
    W = {k: rng.normal(size=(D, D)) for k in offsets}
    expected = 0.0
    for k in offsets:
        for b in range(B):
            for i in range(h - k):
                for j in range(w):
                    z_hat = W[k] @ c[b, i, j]
                    positive = np.exp(z_hat @ z[b, i + k, j])
                    others = [z[a] for a in np.ndindex(B, h, w) if a != (b, i + k, j)]
                    negative = sum(np.exp(z_hat @ z_l) for z_l in others)
                    expected -= np.log(positive / (positive + negative))
    z, c = z.astype(np.float32), c.astype(np.float32)
    predictions = {k: c[:, : h - k] @ W[k].T.astype(np.float32) for k in offsets}
    terms = [
        (h - k) * w * jnp.sum(losses.patch_info_nce(p, z, offset=k, scale=1.0))
        for k, p in predictions.items()
    ]
    np.testing.assert_allclose(sum(terms), expected, rtol=1e-5)
    # what is trained on: means in place of the sum over b, i, j
    loss, _ = losses.directions_info_nce({"down": (predictions, z)}, scale=1.0)
    means = [t / (B * (h - k) * w) for t, k in zip(terms, offsets, strict=True)]
    np.testing.assert_allclose(loss, sum(means), rtol=1e-5)
