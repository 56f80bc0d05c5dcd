"""`model.remat`: the same parameters, statistics and gradients, with less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jssl import models
from jssl.models.efficientnet import STAGES

SHORT = STAGES[1:3]  # four blocks
NETS = {
    "basic": {"name": "resnet10", "width": 0.25, "stem": "cifar"},
    "bottleneck": {"name": "resnet50", "stage_sizes": (1, 1, 1, 1), "width": 0.25, "stem": "cifar"},
}


@pytest.mark.parametrize("net", [*NETS, "efficientnet"])
def test_remat_changes_no_value_and_stores_less(net):
    if net == "efficientnet":
        kept = models.EfficientNet(width=0.5, stages=SHORT, small_images=True)
        again = kept.clone(remat=True)
        assert models.build({"name": "efficientnet_b0", "remat": True}).remat
    else:
        kept, again = models.build(NETS[net]), models.build({**NETS[net], "remat": True})
    x = jax.random.normal(jax.random.key(0), (8, 16, 16, 3))
    variables = jax.jit(kept.init, static_argnames="train")(jax.random.key(1), x, train=True)
    shapes = jax.eval_shape(lambda: again.init(jax.random.key(1), x, train=True))
    assert jax.tree.structure(shapes) == jax.tree.structure(variables)

    def compiled(net):
        def loss(params):
            (h, _), moved = net.apply(
                {**variables, "params": params}, x, train=True, mutable=["batch_stats"],
                rngs={"stochastic_depth": jax.random.key(2)},
            )  # fmt: skip
            return jnp.mean(jnp.sin(h)), moved["batch_stats"]

        # The CPU backend takes out the barriers that hold a recomputation back until it is needed;
        # those of TPU and GPU keep them.
        keep_barriers = {"xla_disable_hlo_passes": "cse_barrier_expander"}
        lowered = jax.jit(jax.grad(loss, has_aux=True)).lower(variables["params"])
        return lowered.compile(keep_barriers)

    first, second = compiled(kept), compiled(again)
    results = [run(variables["params"]) for run in (first, second)]
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(b, a, atol=2e-6 * max(1.0, float(jnp.abs(a).max())))
    sizes = [run.memory_analysis().temp_size_in_bytes for run in (first, second)]
    assert sizes[1] < 0.8 * sizes[0]
