"""Batch normalisation with global, per-device or per-group statistics."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jssl.errors import UserError
from jssl.models.padding import mask_of, without_padding
from jssl.parallel.collectives import axis_size, pmean, psum
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
            on G devices without synchronisation. Each of n devices holds G / n of them, so that
            the result does not depend on n. The running statistics are the means of all groups'
            means and variances.
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
            UserError: G is not divisible by the number of devices.
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
        x, shape = self._split(x, 1 if self.is_initializing() else self._local_groups())
        reduced = tuple(range(1, x.ndim - 1))
        x32 = x.astype(jnp.float32)
        moments = jnp.stack([jnp.mean(x32, reduced), jnp.mean(jnp.square(x32), reduced)])
        count = x32[0, ..., 0].size
        is_global = not self.is_initializing() and self.groups == 1
        if is_global:
            moments = pmean(moments, self.axis_name)
            count *= axis_size(self.axis_name)
        batch_mean = moments[0]  # [G,C]
        batch_var = jnp.maximum(moments[1] - jnp.square(batch_mean), 0.0)
        if not self.is_initializing():
            new = jnp.stack([batch_mean, batch_var]).mean(axis=1)  # over groups
            new = new if is_global else pmean(new, self.axis_name)
            if self.unbiased_running_var:
                new = new * jnp.array([[1.0], [count / max(count - 1, 1)]])
            mean.value = self.momentum * mean.value + (1 - self.momentum) * new[0]
            var.value = self.momentum * var.value + (1 - self.momentum) * new[1]
        local_mean, local_var = (self._spread(v, x.ndim) for v in (batch_mean, batch_var))
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

    def _local_groups(self) -> int:
        """Returns the number of the global batch's groups on this device."""
        if self.groups == 1:
            return 1  # over all devices
        devices = axis_size(self.axis_name)
        if self.groups % devices:
            raise UserError(
                f"BatchNorm with groups={self.groups} of the global batch on {devices} devices: "
                f"expected 1 or a multiple of {devices}, so that no group is cut in two. "
                f"Type for example --config.model.bn_groups={-(-self.groups // devices) * devices}."
            )
        if self.interleaved and devices > 1:
            raise ValueError(
                f"BatchNorm with interleaved groups={self.groups} on {devices} devices: such "
                "groups have members on every device. Expected interleaved=False."
            )
        return self.groups // devices

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
