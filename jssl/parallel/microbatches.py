"""Microbatches: one step of a large batch on a device that cannot hold its activations.

With `accumulate=k` a device divides its B examples into k microbatches and passes one after the
other through the network. Microbatch j has the examples j, j + k, j + 2k ..., so that where the
compiler divides the batch over devices (launch mode fsdp), each of them has a part of every
microbatch. There are two ways, and a method takes the one that its loss allows:

    accumulated_value_and_grad   for a loss that is a mean over examples. The gradient is the mean
                                 of the microbatches' gradients; nothing is computed twice.
    in_microbatches              for a loss that compares the examples of a batch with each other.
                                 All embeddings are computed first, and nothing else is kept; the
                                 loss and its gradient with respect to the embeddings are those of
                                 the whole batch; then each microbatch is computed again and its
                                 gradient is passed back through the network. This is GradCache,
                                 Gao et al., 2021, https://arxiv.org/abs/2101.06983, section 3.2.
                                 It costs one more forward pass.

Both give the gradients of the whole batch. What they cannot keep are the statistics of batch
normalisation: they are those of one microbatch over all devices ("ghost batches", Hoffer et al.,
NeurIPS 2017, https://arxiv.org/abs/1705.08741). `model.bn_groups` divides a microbatch, so that a
step has k * bn_groups groups. Running statistics move once in a step: each microbatch moves them
from where they were before the step, and the mean is kept.

Random numbers belong to an example's index in the global batch, and are the same for any k. The
optimiser, averages, queues and schedules move once in a step.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jssl.errors import UserError
from jssl.parallel.collectives import global_index, mean_value_and_grad, pmean, whole
from jssl.types import Array, PyTree


def accumulate_of(config: Any) -> int:
    """Returns the number of microbatches in a step, 1 in a config from before the key.

    Example:
        >>> accumulate_of({'accumulate': 4}), accumulate_of({})
        (4, 1)
    """
    return config.get("accumulate", 1)


def check_microbatches(accumulate: int, *, batch_size: int, devices: int) -> None:
    """Checks that each device's part of a batch falls into equal microbatches.

    Args:
        accumulate: k, of `config.accumulate`.
        batch_size: global, a multiple of the devices.
        devices: along the batch axis.

    Raises:
        UserError: names the valid numbers of microbatches.

    Example:
        >>> check_microbatches(4, batch_size=64, devices=8)
    """
    size = batch_size // devices
    if size % accumulate:
        valid = [k for k in range(1, size + 1) if size % k == 0]
        near = max(k for k in valid if k <= accumulate)
        raise UserError(
            f"--config.accumulate={accumulate} divides the {size} examples of a device (batch size "
            f"{batch_size} on {devices} devices) into unequal microbatches: expected one of "
            f"{', '.join(map(str, valid))}. Type --config.accumulate={near}."
        )


def check_groups(groups: int, *, accumulate: int, batch_size: int, devices: int) -> None:
    """Checks that every microbatch falls into equal groups of batch normalisation.

    Args:
        groups: of `config.model.bn_groups`, in a microbatch of all devices.
        accumulate: k; with 1 the network checks its input itself.
        batch_size: global, a multiple of devices * k.
        devices: along the batch axis.

    Raises:
        UserError: names the numbers of groups that are possible, and the one whose groups are
            nearest in size to those of the undivided batch.

    Example:
        >>> check_groups(2, accumulate=4, batch_size=256, devices=1)  # as 8 without microbatches
    """
    size = batch_size // (devices * accumulate)  # of a device's part

    def fits(g: int) -> bool:
        return devices % g == 0 or (g % devices == 0 and size % (g // devices) == 0)

    if accumulate == 1 or groups == 1 or fits(groups):
        return
    valid = [g for g in range(1, size * devices + 1) if fits(g)]
    near = max(g for g in valid if g <= max(1, groups // accumulate))
    raise UserError(
        f"--config.model.bn_groups={groups} divides a microbatch, which has {size * devices} "
        f"examples (batch size {batch_size}, --config.accumulate={accumulate}) on {devices} "
        f"device(s), into unequal groups: expected one of {', '.join(map(str, valid))}. For groups "
        "as large as without microbatches divide bn_groups by them: type "
        f"--config.model.bn_groups={near}."
    )


def split(tree: PyTree, accumulate: int) -> PyTree:
    """Splits the leading axis into microbatches: [B,...] -> [k,B/k,...], example i in i mod k.

    Args:
        tree: arrays [B,...].
        accumulate: k.

    Raises:
        UserError: k does not divide B.

    Example:
        >>> split(jnp.arange(6), 2).tolist()
        [[0, 2, 4], [1, 3, 5]]
    """

    def one(x: Array) -> Array:
        check_microbatches(accumulate, batch_size=len(x), devices=1)
        return x.reshape(len(x) // accumulate, accumulate, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(one, tree)


def join(tree: PyTree) -> PyTree:
    """Inverts `split`: [k,B/k,...] -> [B,...].

    Args:
        tree: arrays [k,B/k,...].

    Example:
        >>> join(split(jnp.arange(6), 2)).tolist()
        [0, 1, 2, 3, 4, 5]
    """
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)


def _numbers(examples: PyTree, axis_name: str | None, accumulate: int) -> Array:
    """The indices of a device's examples in the global batch; of one microbatch, the first's."""
    size = len(jax.tree.leaves(examples)[0])
    first = global_index(size, axis_name)
    return first if accumulate == 1 else first + jnp.arange(size)


def _mean(tree: PyTree) -> PyTree:
    """The mean over microbatches [k,...]."""
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), tree)


def accumulated_value_and_grad(
    loss_fn: Callable[[PyTree, PyTree, Array], tuple[Array, Any]],
    params: PyTree,
    examples: PyTree,
    *,
    accumulate: int,
    axis_name: str | None,
) -> tuple[tuple[Array, Any], PyTree]:
    """Computes value and gradient of a loss that is a mean over examples, in microbatches.

    Args:
        loss_fn: `(params, examples, numbers) -> (loss [], aux)`, the mean over these examples.
            `numbers` are their indices in the global batch, int32 [b]; or [] of the first, if
            there is only one microbatch. Both suit the `views` of a method and `rows` of a network.
        params: pytree, equal on every device.
        examples: arrays [B,...] of this device.
        accumulate: k, the number of microbatches; with 1 this is `mean_value_and_grad`.
        axis_name: the batch axis, or None on one device.

    Returns:
        `((loss, aux), grads)` as of `mean_value_and_grad`; aux (running statistics, metrics) is
        the mean over microbatches.

    Raises:
        UserError: k does not divide B.

    Example:
        >>> def loss_fn(w, x, numbers):
        ...     return jnp.mean((w * x) ** 2), jnp.mean(x)
        >>> x = jnp.arange(4.0)
        >>> (loss, mean), grad = accumulated_value_and_grad(
        ...     loss_fn, jnp.float32(2.0), x, accumulate=2, axis_name=None)
        >>> print(loss, mean, grad)
        14.0 1.5 14.0
    """
    numbers = _numbers(examples, axis_name, accumulate)
    if accumulate == 1:
        return mean_value_and_grad(lambda p: loss_fn(p, examples, numbers), params, axis_name)

    def mean_loss(params: PyTree, part: PyTree) -> tuple[Array, Any]:
        loss, aux = loss_fn(whole(params), *part)
        return pmean(loss, axis_name), aux

    def one(total: PyTree, part: PyTree) -> tuple[PyTree, Any]:
        value, grads = jax.value_and_grad(mean_loss, has_aux=True)(params, part)
        return jax.tree.map(jnp.add, total, grads), value

    total, values = jax.lax.scan(
        one, jax.tree.map(jnp.zeros_like, params), split((examples, numbers), accumulate)
    )
    # One collective in a step, of what all microbatches say.
    grads = pmean(jax.tree.map(lambda x: x / accumulate, total), axis_name)
    return _mean(values), grads


def in_microbatches(
    forward: Callable[[PyTree, PyTree, Array], tuple[PyTree, PyTree]],
    params: PyTree,
    examples: PyTree,
    *,
    accumulate: int,
    axis_name: str | None,
) -> tuple[PyTree, PyTree]:
    """Computes a network's outputs of all examples, in microbatches, forward and backward.

    Of the forward pass only the outputs are kept. Under differentiation each microbatch is
    computed again, with the same random numbers, when the gradient of its outputs is known
    (GradCache, see the top of this file), so that any loss of all outputs has the gradient of the
    whole batch.

    Args:
        forward: `(params, examples, numbers) -> (outputs [b,...], statistics)`; `numbers` as in
            `accumulated_value_and_grad`.
        params: pytree; differentiable.
        examples: arrays [B,...] of this device.
        accumulate: k, the number of microbatches; with 1 this only calls `forward`.
        axis_name: the batch axis, or None on one device.

    Returns:
        `(outputs [B,...], statistics)`: outputs in the order of the examples, and the mean of the
        statistics over microbatches.

    Raises:
        UserError: k does not divide B.

    Example:
        >>> def forward(w, x, numbers):
        ...     return w * x, jnp.mean(x)
        >>> z, mean = in_microbatches(forward, 2.0, jnp.arange(4.0), accumulate=2, axis_name=None)
        >>> print(z, mean)
        [0. 2. 4. 6.] 1.5

    Reference:
        Gao et al., RepL4NLP 2021, https://arxiv.org/abs/2101.06983, section 3.2.
    """
    numbers = _numbers(examples, axis_name, accumulate)
    if accumulate == 1:
        return forward(params, examples, numbers)

    # A scan keeps the two computations of a microbatch apart by itself: no need to prevent CSE.
    one = jax.checkpoint(lambda params, part: forward(params, *part), prevent_cse=False)
    outputs, statistics = jax.lax.map(
        lambda part: one(params, part), split((examples, numbers), accumulate)
    )
    return join(outputs), _mean(statistics)
