"""Workdirs of runs that were never trained, for the tests of what happens after training."""

import jax

from jssl.run import build, checkpoint, workdir


def finished_run(config, folder, *, seed=1):
    """A workdir with a checkpoint, as a run of `config` leaves it; the weights are of `seed`."""
    config.run.update({"num_examples": 64, "steps_per_epoch": 4, "total_steps": 4})
    method, _ = build.make_method(config, axis_name=None)
    workdir.open_workdir(folder, config)
    drawn = config.copy_and_resolve_references()
    drawn.seed = seed
    state = jax.jit(lambda: build.first_state(drawn, method, config.batch_size))()
    checkpoints = checkpoint.Checkpoints(folder, method=config.method)
    checkpoints.save(0, state, {})
    checkpoints.close()
    return folder
