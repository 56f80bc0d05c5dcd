"""Records the compiled text of one small step for TPU, GPU and CPU topologies.

    JAX_PLATFORMS=cpu python tests/reference/record_fit_texts.py v5e:2x4 tests/golden/fit_v5e.txt

with the extras fit-tpu (v5e:2x4), fit-gpu (h100:8) or neither (cpu:8). What the step sends is
known beforehand: over 8 devices it gathers embeddings [4,16] to [32,16], whose gradient is spread
back (512 float32 = 2,048 bytes each way), sums 16 x 16 float32 of gradients (1,024 bytes), and a
scan of 3 steps passes [4,16] (256 bytes) on to the next device. Metadata is cut off the lines.
"""

import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jssl.compile import devices as devices_lib

topology, path = sys.argv[1:]
devices = devices_lib.open_devices(devices_lib.prepare(topology))
mesh = Mesh(devices, ("batch",))
n = len(devices)


def step(w, x):  # w [16,16], x [4,16] a device
    def loss(w):
        z = jnp.tanh(x @ w)
        everyone = jax.lax.all_gather(z, "batch", axis=0, tiled=True)
        return jnp.sum(jax.nn.logsumexp(z @ everyone.T, axis=1))

    def turn(y, _):
        y = jax.lax.ppermute(jnp.sin(y), "batch", [(i, (i + 1) % n) for i in range(n)])
        return y, None

    grad = jax.lax.psum(jax.grad(loss)(w), "batch")
    return w - grad, jax.lax.scan(turn, x, None, length=3)[0]


everywhere, split = PartitionSpec(), PartitionSpec("batch")
mapped = jax.shard_map(
    step, mesh=mesh, in_specs=(everywhere, split), out_specs=(everywhere, split), check_vma=False
)
arguments = (
    jax.ShapeDtypeStruct((16, 16), jnp.float32, sharding=NamedSharding(mesh, everywhere)),
    jax.ShapeDtypeStruct((4 * n, 16), jnp.float32, sharding=NamedSharding(mesh, split)),
)
text = jax.jit(mapped).lower(*arguments).compile().as_text()
text = re.sub(r", metadata=\{[^{}]*(\{[^{}]*\}[^{}]*)*\}", "", text)
text = re.sub(r'"(?!known_trip_count|n")\w+":\{[^{}]*\},?', "", text)
lines = [line for line in text.splitlines() if not line.startswith(("FileNames", "StackFrames"))]
Path(path).write_text("\n".join(lines) + "\n")
