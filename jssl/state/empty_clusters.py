"""Two rules of k-means for new centroids of empty clusters.

Both use only the centroids and the sizes over the whole data set, so that their results are equal
on every device. The third rule of `jssl.state.kmeans`, 'keep', changes nothing.
"""

import jax
import jax.numpy as jnp

from jssl.types import Array

# Relative to the root-mean-square distance of a coordinate to its centroid: small compared with a
# cluster, and large compared with the rounding error of a distance.
PERTURBATION = 0.01
# faiss's EPS: donor and copy are moved apart by this share of each coordinate.
SPLIT = 1 / 1024


def perturb_copies(key: Array, centroids: Array, sizes: Array, *, scale: Array) -> Array:
    """Replaces empty clusters by perturbed copies of random other centroids (the lecture's rule).

    The other one is drawn uniformly from the clusters of two or more points, as one point cannot be
    shared, or from the non-empty ones if there is none. The next assignment of k-means divides its
    points between the two centroids.

    Args:
        key: PRNG key.
        centroids: float32 [k,D], the means; rows of empty clusters are not read.
        sizes: int32 [k].
        scale: float32 [], root-mean-square distance of a coordinate to its centroid; the noise is
            normal, of 0.01 times this scale rounded up to a power of two.

    Returns:
        float32 [k,D]; rows of non-empty clusters unchanged.

    Example:
        >>> centroids = jnp.array([[1.0, 2.0], [0.0, 0.0]])
        >>> new = perturb_copies(jax.random.key(0), centroids, jnp.array([5, 0]), scale=1.0)
        >>> print(new[0], jnp.abs(new[1] - new[0]).max() < 0.1)
        [1. 2.] True
    """
    k, D = centroids.shape
    index_key, noise = jax.random.split(key)
    eligible = jnp.where(jnp.any(sizes > 1), sizes > 1, sizes > 0)
    indices = jnp.nonzero(eligible, size=k, fill_value=0)[0]
    drawn = jax.random.randint(index_key, (k,), 0, jnp.maximum(jnp.sum(eligible), 1))
    # The last digits of this sum over devices depend on their number; the noise must not.
    scale = jnp.exp2(jnp.ceil(jnp.log2(scale)))
    copies = centroids[indices[drawn]]
    copies += PERTURBATION * scale * jax.random.normal(noise, (k, D))
    return jnp.where((sizes == 0)[:, None], copies, centroids)


def split_donors(key: Array, centroids: Array, sizes: Array) -> tuple[Array, Array]:
    """Replaces empty clusters by splitting large ones (faiss's rule).

    Empty clusters are processed in order. Each visits the clusters cyclically from the first one
    and stops at cluster j with probability (n_j - 1) / (n - k), where n_j is its current size; here
    with one draw from the same distribution instead of one for each visit. The copy's coordinates
    are multiplied alternately by 1 + 1/1024 and 1 - 1/1024, the donor's by the opposite, and they
    share the donor's size. A copy may become a donor.

    Args:
        key: PRNG key.
        centroids: float32 [k,D], the means; rows of empty clusters are not read.
        sizes: int32 [k], with a sum n >= k, so that a cluster can be split.

    Returns:
        centroids: float32 [k,D].
        sizes: int32 [k], the sizes assumed by the rule, all > 0; the next assignment gives the true
            ones.

    Example:
        >>> new, sizes = split_donors(
        ...     jax.random.key(0), jnp.array([[1024.0, 1024.0], [0.0, 0.0]]), jnp.array([5, 0])
        ... )
        >>> print(new, sizes)
        [[1023. 1025.]
         [1025. 1023.]] [3 2]

    Reference:
        faiss, `split_clusters` of https://github.com/facebookresearch/faiss (Clustering).
    """
    k, D = centroids.shape
    empty = jnp.nonzero(sizes == 0, size=k, fill_value=0)[0]
    draws = jax.random.uniform(key, (k,))
    num_extra = jnp.maximum(jnp.sum(sizes) - k, 1).astype(jnp.float32)

    def split(i: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        sizes, root, up, down = carry
        accept = jnp.clip((sizes - 1).astype(jnp.float32) / num_extra, 0.0, 1.0)
        # -log of the probability that the visits of one cycle pass j; the cluster at which a cycle
        # stops is the first j at or beyond a truncated exponential variable.
        passed = jnp.where(accept > 0, jnp.cumsum(-jnp.log1p(-accept)), -1.0)
        total = jnp.max(passed)
        target = -jnp.log1p(draws[i] * jnp.expm1(-total))
        j = jnp.argmax(passed >= jnp.minimum(target, total))
        e = empty[i]
        half = sizes[j] // 2
        # A centroid is its root's, times (1 + SPLIT)^up (1 - SPLIT)^down in even coordinates.
        return (
            sizes.at[e].set(half).at[j].add(-half),
            root.at[e].set(root[j]),
            up.at[e].set(up[j] + 1),
            down.at[e].set(down[j]).at[j].add(1),
        )

    zeros = jnp.zeros(k, jnp.int32)
    sizes, root, up, down = jax.lax.fori_loop(
        0, jnp.sum(sizes == 0), split, (sizes, jnp.arange(k), zeros, zeros)
    )
    plus, minus = (1 + SPLIT) ** up, (1 - SPLIT) ** up
    even = plus * (1 - SPLIT) ** down
    odd = minus * (1 + SPLIT) ** down
    factors = jnp.where((jnp.arange(D) % 2 == 0)[None], even[:, None], odd[:, None])
    return centroids[root] * factors, sizes
