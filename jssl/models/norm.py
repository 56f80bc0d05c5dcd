"""Batch normalisation with global, per-device or per-group statistics."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl.errors import UserError
from jssl.models.padding import mask_of, without_padding
from jssl.parallel.collectives import axis_index, axis_size, pmean, psum
from jssl.types import Array


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last.

    Statistics are float32 for any dtype of the input. One collective averages both moments over
    devices: the means, and the mean squares minus the squared mean, as in TensorFlow's
    cross-replica batch normalisation. The running variance is biased, as in TensorFlow and flax;
    torch's is unbiased, see `unbiased_running_var`. Padding is left out, see `jssl.models.padding`.

    Attributes:
        axis_name: the batch axis; with `groups` = 1 the moments are averaged over it.
        groups: G, above 1: the GLOBAL batch is divided into G groups with separate statistics, as
            on G devices without synchronisation. Each of n devices holds G / n of them, or n / G
            devices hold one together, so that the result does not depend on n. The running
            statistics are the means of all groups' means and variances.
        interleaved: group of example i is i mod G (MoCo's SplitBatchNorm), else the groups are
            contiguous. Such groups span devices: on one device only.
        momentum: of the running statistics, running = momentum * running + (1 - momentum) * new.
        epsilon: added to the variance.
        unbiased_running_var: the running variance is n / (n - 1) of the batch's, as torch's.
        use_scale, use_bias: learn gamma, beta.
        scale_init: of gamma.
        dtype: of the output.
    """

    axis_name: str | None = None
    groups: int = 1
    interleaved: bool = False
    momentum: float = 0.9
    epsilon: float = 1e-5
    unbiased_running_var: bool = False
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Any = nn.initializers.ones
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[B,...,C] -> [B,...,C] in `dtype`; with `train` the batch's statistics, else running.

        Raises:
            UserError: G is neither a multiple nor a divisor of the number of devices.
            ValueError: B is not divisible by a device's groups; interleaved groups on several
                devices; groups of padded inputs.
        """
        C = x.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, (C,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (C,), jnp.float32)
        scale = self.param("scale", self.scale_init, (C,), jnp.float32) if self.use_scale else None
        bias = (
            self.param("bias", nn.initializers.zeros, (C,), jnp.float32) if self.use_bias else None
        )
        if not train:
            return without_padding(self._apply(x, mean.value, var.value, scale, bias))
        if (mask := mask_of(x)) is not None:
            moments, number = self._masked_moments(x, mask)
            if not self.is_initializing():
                factor = number / jnp.maximum(number - 1, 1) if self.unbiased_running_var else 1.0
                mean.value = self.momentum * mean.value + (1 - self.momentum) * moments[0]
                var.value = self.momentum * var.value + (1 - self.momentum) * moments[1] * factor
            return without_padding(self._apply(x, moments[0], moments[1], scale, bias))
        # `init` does not depend on the groups, and its batch may be smaller.
        G, per_group = (1, 1) if self.is_initializing() else self._local_groups()
        x, shape = self._split(x, G)
        reduced = tuple(range(1, x.ndim - 1))
        x32 = x.astype(jnp.float32)
        moments = jnp.stack([jnp.mean(x32, reduced), jnp.mean(jnp.square(x32), reduced)])
        count = x32[0, ..., 0].size * per_group
        everyone = per_group > 1 or self.groups == 1  # the moments of all groups are known
        if not self.is_initializing() and everyone:
            moments = self._over_devices(moments, per_group)
        means = moments[0]  # [G,C]
        variances = jnp.maximum(moments[1] - jnp.square(means), 0.0)
        if not self.is_initializing():
            new = jnp.stack([means, variances]).mean(axis=1)  # over groups
            new = new if everyone else pmean(new, self.axis_name)
            if self.unbiased_running_var:
                new = new * jnp.array([[1.0], [count / max(count - 1, 1)]])
            mean.value = self.momentum * mean.value + (1 - self.momentum) * new[0]
            var.value = self.momentum * var.value + (1 - self.momentum) * new[1]
        if len(means) > G:  # of all groups: the one that this device has a part of
            mine = axis_index(self.axis_name) // per_group
            means, variances = (
                jax.lax.dynamic_slice_in_dim(v, mine, 1) for v in (means, variances)
            )
        local_mean, local_var = (self._spread(v, x.ndim) for v in (means, variances))
        y = self._apply(x, local_mean, local_var, scale, bias)
        return self._join(y, shape)

    def _masked_moments(self, x: Array, mask: Array) -> tuple[Array, Array]:
        """Mean and variance [2,C] of what is no padding on all devices, and its number []."""
        if self.groups != 1:
            raise ValueError(f"BatchNorm of padded inputs expects groups=1, found {self.groups}.")
        x32 = jnp.where(mask, x.astype(jnp.float32), 0.0)
        reduced = tuple(range(x.ndim - 1))
        sums = jnp.stack([jnp.sum(x32, reduced), jnp.sum(jnp.square(x32), reduced)])
        count = jnp.sum(jnp.broadcast_to(mask, (*x.shape[:-1], 1)).astype(jnp.float32))
        sums, count = psum((sums, count), None if self.is_initializing() else self.axis_name)
        mean, square = sums / jnp.maximum(count, 1.0)
        return jnp.stack([mean, jnp.maximum(square - jnp.square(mean), 0.0)]), count

    def _over_devices(self, moments: Array, per_group: int) -> Array:
        """[2,1,C] of one device -> [2,G,C] of all groups, the means over the devices of each.

        One sum of an array that is zero but for the device's own group: unlike a sum within groups
        of devices it works in every launch mode, and the running statistics need no other.
        """
        if self.groups == 1:
            return pmean(moments, self.axis_name)
        mine = axis_index(self.axis_name) // per_group
        own = jax.nn.one_hot(mine, self.groups, dtype=moments.dtype) / per_group
        return psum(moments * own[None, :, None], self.axis_name)

    def _local_groups(self) -> tuple[int, int]:
        """Returns the groups that a device holds, and the devices that hold a group together."""
        devices = axis_size(self.axis_name)
        if self.groups == 1:
            return 1, devices
        if self.interleaved and devices > 1:
            raise ValueError(
                f"BatchNorm with interleaved groups={self.groups} on {devices} devices: such "
                "groups have members on every device. Expected interleaved=False."
            )
        if self.groups % devices == 0:
            return self.groups // devices, 1
        if devices % self.groups == 0:
            return 1, devices // self.groups
        near = self.groups // devices * devices or max(
            g for g in range(1, self.groups) if devices % g == 0
        )
        raise UserError(
            f"BatchNorm with groups={self.groups} of the global batch on {devices} devices: "
            f"expected a multiple or a divisor of {devices}, so that a group is a part of a device "
            f"or of whole devices. Type for example --config.model.bn_groups={near}."
        )

    def _split(self, x: Array, G: int) -> tuple[Array, tuple[int, ...]]:
        """[B,...,C] -> [G,B/G,...,C]."""
        B = x.shape[0]
        if B % G:
            raise ValueError(
                f"BatchNorm with groups={self.groups} needs a batch divisible by it; found {B}"
                f"{f', where {G} groups are to be' if G != self.groups else ''}."
            )
        if self.interleaved:
            return jnp.swapaxes(x.reshape(B // G, G, *x.shape[1:]), 0, 1), x.shape
        return x.reshape(G, B // G, *x.shape[1:]), x.shape

    def _join(self, y: Array, shape: tuple[int, ...]) -> Array:
        return (jnp.swapaxes(y, 0, 1) if self.interleaved else y).reshape(shape)

    def _spread(self, v: Array, ndim: int) -> Array:
        """[G,C] -> [G,1,...,1,C]."""
        return v.reshape(v.shape[0], *(1,) * (ndim - 2), v.shape[1])

    def _apply(self, x: Array, mean: Array, var: Array, scale: Any, bias: Any) -> Array:
        # x * a + b with a, b small: one pass over x instead of three.
        a = jax.lax.rsqrt(var + self.epsilon)
        a = a if scale is None else a * _like(scale, a)
        b = -mean * a
        b = b if bias is None else b + _like(bias, b)
        y = x.astype(jnp.float32) * _like(a, x) + _like(b, x)
        return y.astype(self.dtype)


def _like(v: Array, x: Array) -> Array:
    """Adds leading axes of one to v until it has x's rank."""
    return v.reshape(*(1,) * (x.ndim - v.ndim), *v.shape)


def norm_of(net: Any, name: str, **others: Any) -> BatchNorm:
    """Returns a `BatchNorm` with a network's attributes `bn_*`, `axis_name` and `dtype`.

    Args:
        net: the network, called in its compact method.
        name: of the layer.
        **others: further attributes of the layer.
    """
    return BatchNorm(
        axis_name=net.axis_name,
        groups=net.bn_groups,
        interleaved=getattr(net, "bn_interleaved", False),
        momentum=net.bn_momentum,
        epsilon=net.bn_epsilon,
        unbiased_running_var=net.bn_unbiased_running_var,
        dtype=net.dtype,
        name=name,
        **others,
    )
