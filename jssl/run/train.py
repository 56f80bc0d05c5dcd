"""The training loop, the same for every method."""

import contextlib
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from jssl import data, files, optim
from jssl.data.fetch import in_words
from jssl.errors import NotFiniteError as NotFiniteError
from jssl.errors import UserError
from jssl.evaluate.online import (
    check_monitor,
    held_out_protocol,
    make_inspection,
    make_monitor,
    monitor_protocol,
)
from jssl.parallel.launcher import placed
from jssl.precision import narrow
from jssl.report import Reporter, check_map
from jssl.run import batches as batching
from jssl.run import (
    best,
    build,
    checkpoint,
    extend,
    init_from,
    lock,
    not_finite,
    sinks,
    stopping,
    versions,
    workdir,
    writers,
)
from jssl.third_party import same_handlers
from jssl.types import TrainState

OnStep = Callable[[int, dict[str, float]], Any]


def _stop_requested(step: int) -> bool:
    """Whether to stop; all processes agree, at the same step."""
    if jax.process_count() > 1:  # jax.distributed handles SIGTERM and informs every process
        return multihost_utils.reached_preemption_sync_point(step)
    return stopping.asked()


@narrow
@same_handlers()
def train(
    config: ConfigDict,
    folder: str | Path,
    *,
    judged: bool = False,
    longer: bool = False,
    on_step: OnStep | None = None,
) -> TrainState:
    """Trains until the config's last step; resumes if the workdir has a checkpoint.

    Args:
        config: the complete config.
        folder: the workdir; created if it does not exist.
        judged: whether the table of `final` follows: then its settings are checked here.
        longer: whether to extend the run in the workdir, see `jssl.run.extend`.
        on_step: called as `on_step(step, metrics)` in every process, after each update, one update
            late, with its numbers, and after each monitoring with the monitor's: `step` is the
            number of updates, 0 for the network before the first. What it raises ends the run,
            whose state is saved first.

    Returns:
        The last state. Within `jssl.run.stopping.signals()` a signal raises SystemExit(75) after
        saving; a library call does not change the caller's handlers.

    Raises:
        UserError: mistakes of the user, before anything is compiled.
        NotFiniteError: the loss, the gradient, the network or a feature is not finite.
    """
    sinks.check(config)
    check_map(config.report)
    parts = build.build(config)
    check_monitor(parts, judged=judged)
    not_finite.check(folder, config)
    source = init_from.read(parts, folder)
    extension = extend.check(folder, parts) if longer else None
    folder = workdir.make_folder(folder)
    with workdir.write_errors(folder), lock.held(folder):
        workdir.open_workdir(
            folder, config, classes=parts.class_names, longer=extension is not None
        )
        not_finite.clear(folder)
        if extension is not None:
            extend.tell(folder, extension)
        return _train(parts, folder, source, on_step)


def _train(
    parts: Any, folder: Path, source: init_from.Source | None, on_step: OnStep | None
) -> TrainState:
    config = parts.config
    batches = batching.batches_of(parts)
    saved = checkpoint.Checkpoints(
        folder,
        method=config.method,
        keep=config.checkpoint.keep,
        keep_every_steps=config.checkpoint.keep_every_steps,
    )
    with contextlib.closing(saved), contextlib.closing(batches):
        step, warnings = saved.newest_whole()
        if step is None:
            state = build.init_state(parts)
            if source is not None:
                state = init_from.put(parts, source, state, folder)
        else:
            state, data_state = saved.restore(build.abstract_state(parts), step)
            batches.restore(data_state)
        with _Run(parts, folder, saved, batches, int(state.step), on_step) as run:
            run.warn(warnings + run.writers.warnings)
            return run.loop(state)


class _Run:
    """One start of a run: its writers, and the training loop."""

    def __init__(
        self,
        parts: Any,
        folder: Path,
        saved: Any,
        batches: Any,
        first: int,
        on_step: OnStep | None,
    ):
        config, self.on_step = parts.config, on_step
        self.parts, self.folder, self.saved, self.batches = parts, folder, saved, batches
        self.first = first
        self.labelled = build.needs_labels(config)
        trackers = sinks.open_sinks(config, folder)
        self.writers = writers.Writers(
            folder, step=first, tensorboard=config.log.tensorboard, sinks=trackers
        )
        self.last = parts.total_steps
        if config.max_steps:
            self.last = min(self.last, config.max_steps)
        self.progress = writers.Progress(
            total=self.last, initial=first, images_per_step=config.batch_size
        )
        self.monitor = make_monitor(parts) if config.monitor.every_epochs else None
        self.inspect = make_inspection(parts) if config.monitor.every_epochs else None
        self.report = Reporter(folder, enabled=config.report.enabled)
        self.best = None
        if parts.held_out is not None and self.monitor is not None:
            self.best = best.Best(folder, method=config.method, examples=held_out_protocol(parts))

    def __enter__(self) -> "_Run":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.progress.close()
        self.writers.close(sinks.end_of(error))

    def loop(self, state: TrainState) -> TrainState:
        config, launcher = self.parts.config, self.parts.launcher
        self._print_header(state)
        step_fn = launcher.compile_step(self.parts.method.train_step)
        pending = None
        method, steps_per_epoch = self.parts.method, self.parts.steps_per_epoch
        # A new run is monitored before its first update; one that resumes only if it was stopped
        # between save and monitor.
        if self._monitor_due(self.first) and not self._was_monitored():
            self._monitor_safely(self.first, state)
        if method.order is not None and self.first % steps_per_epoch:
            self.batches.reorder(method.order(state))
        with contextlib.ExitStack() as stack:
            for step in range(self.first, self.last):
                if method.refresh is not None and step % steps_per_epoch == 0:
                    if pending is not None:
                        self._log_step(*pending, state)
                        pending = None
                    state = self._refresh(step, state)
                batch = next(self.batches)
                if self.labelled:
                    section, name = config[config.method], self.parts.train_source.name
                    batching.check_labels(batch, section.num_classes, name=name)
                first, started = step == self.first, time.monotonic()
                if first:
                    self.progress.say("compiling ...")
                state, values = step_fn(state, launcher.put_batch(batch), np.int32(step))
                if first:  # before this a signal exits at once: nothing is lost
                    self.progress.say(f"compiled in {time.monotonic() - started:.1f} s")
                    stack.enter_context(stopping.after_the_step())
                # The numbers of the last step are read while this one runs.
                if pending is not None:
                    self._log_step(*pending, state)
                pending = (step, values, batch["index"])
                done = step + 1
                monitor, stop = self._monitor_due(done), _stop_requested(done)
                save = done % config.checkpoint.every_steps == 0 or done == self.last or stop
                # One process of several cannot save by itself when its monitor fails.
                save |= monitor and jax.process_count() > 1
                if save or monitor:
                    self._log_step(*pending, state)
                    pending = None
                if save:
                    self._save(done, state)
                if stop:
                    self._exit(done)
                if monitor:
                    self._monitor_safely(done, state)
            self.saved.wait()
        return launcher.as_global(state)

    def _monitor_due(self, done: int) -> bool:
        epochs = self.parts.config.monitor.every_epochs
        every = max(1, round(epochs * self.parts.steps_per_epoch))
        return self.monitor is not None and (done % every == 0 or done == self.last)

    def _was_monitored(self) -> bool:
        """Whether the metrics have the monitor's numbers of the first step of this start."""
        logged = writers.has_row(self.folder / "metrics.jsonl", self.first, "monitor_seconds")
        if jax.process_count() > 1:
            logged = bool(multihost_utils.broadcast_one_to_all(np.bool_(logged)))
        return logged

    def _save(self, done: int, state: TrainState) -> None:
        lock.check(self.folder)
        self.saved.save(done, self.parts.launcher.as_global(state), self.batches.state())

    def _print_header(self, state: TrainState) -> None:
        table = workdir.parameter_table(state.params)
        if jax.process_index() == 0:
            files.write_text(self.folder / "parameters.txt", table + "\n")
        config, parts = self.parts.config, self.parts
        count = table.splitlines()[-1].split()[-1]
        self.progress.say(
            f"{config.method} ({config.preset}) on {parts.train_source.name}: "
            f"{len(parts.train_source):,} training examples, {count} parameters, "
            f"{parts.total_steps:,} steps of {config.batch_size}, launch {config.launch} over "
            f"{parts.launcher.size} x {jax.devices()[0].device_kind}, workdir {self.folder}"
        )
        self.progress.say(f"data: {data.describe(parts.train_source)}")
        if warning := optim.rate_warning(
            config.optim,
            parts.schedule,
            batch_size=config.batch_size,
            total_steps=parts.total_steps,
        ):
            self.progress.say(f"WARNING {warning}")
        if self.first:
            self.progress.say(f"resumed at step {self.first}")
        if self.monitor is not None:
            self.progress.say(monitor_protocol(parts))
        if self.best is not None:
            self.progress.say(f"keeps the best state by {held_out_protocol(parts)}, in best/")
        elif parts.held_out is not None:
            self.progress.say("keeps no best state, as config.monitor.every_epochs is 0")

    def _refresh(self, step: int, state: TrainState) -> TrainState:
        """Refreshes the state at the start of an epoch; checkpoints of this step are before it."""
        started, method = time.monotonic(), self.parts.method
        batches = functools.partial(batching.sweep, self.parts)
        first = step == self.first  # nothing is lost: a signal exits at once
        try:
            with contextlib.nullcontext() if first else stopping.leaves_the_pass():
                new, values = method.refresh(self.parts.launcher.as_global(state), batches)
        except stopping.Interrupted:
            self._save(step, state)
            self._exit(step)
        state = placed(self.parts.launcher, new)
        if method.order is not None:
            self.batches.reorder(method.order(state))
        values = {**values, "refresh_seconds": self.progress.paused(started)}
        # Logged with the epoch's first update, as a resumed run drops and repeats both.
        self.writers.scalars(step + 1, values)
        shown = "  ".join(f"{k} {v:.4g}" for k, v in values.items())
        self.progress.say(f"epoch {step / self.parts.steps_per_epoch:g} begins: {shown}")
        return state

    def _log_step(self, step: int, values: Any, index: np.ndarray, state: TrainState) -> None:
        """Reads the numbers of one update: stops if not finite, logs if due."""
        config, done = self.parts.config, step + 1
        values = {k: np.asarray(v).item() for k, v in values.items()}
        if not values.pop("ok"):
            self._not_finite(step, values, index, state)
        self.progress.advance(done)
        if done % config.log.every_steps == 0 or done == self.last:
            values["learning_rate"] = float(self.parts.schedule(step))
            values["epoch"] = done / self.parts.steps_per_epoch
            values["images_per_second"] = self.progress.images_per_second(done)
            self.writers.scalars(done, values)
            shown = {k: v for k, v in values.items() if k == "loss" or k.endswith("top1")}
            self.progress.report(done, shown)
        self._tell(done, values, state)

    def _tell(self, done: int, values: dict[str, float], state: TrainState) -> None:
        """Calls the user's `on_step`; saves the newest state if that raises."""
        if self.on_step is None:
            return
        try:
            self.on_step(done, dict(values))
        except BaseException:
            if jax.process_count() == 1:  # of several, one cannot save by itself
                self._save(self.batches.next_step, state)
                self.saved.wait()
            raise

    def _not_finite(self, step: int, values: Any, index: np.ndarray, state: TrainState) -> None:
        # The guard kept the state from before this update: its step is `step`.
        data_state = {**self.batches.state(), "next_step": step}
        self.saved.save(step, self.parts.launcher.as_global(state), data_state)
        self.saved.wait()
        numbers = ", ".join(f"{k} {v:g}" for k, v in values.items())
        examples = ", ".join(map(str, index.tolist()))
        found = (
            f"The loss or its gradient is not finite at step {step} ({numbers}).\n"
            f"Examples of that batch (indices in '{self.parts.train_source.name}'): {examples}\n"
            f"The state before it is saved: {self.folder / 'checkpoints' / str(step)}."
        )
        not_finite.stop(self.folder, self.parts.config, found, step=step, good=step)

    def _monitor_safely(self, done: int, state: TrainState) -> None:
        """Monitors a state; saves it if the monitor fails."""
        try:
            # Before the first update nothing is lost: a signal exits at once.
            with stopping.leaves_the_pass() if done else contextlib.nullcontext():
                scalars = self._monitor(done, state)
        except BaseException as error:
            if done == 0 and not isinstance(error, NotFiniteError):
                raise
            if jax.process_count() == 1:
                self._save(done, state)
            self.saved.wait()
            if isinstance(error, stopping.Interrupted):
                self._exit(done)
            saved = f"The monitor failed; the state after step {done} is saved in {self.folder}."
            if isinstance(error, NotFiniteError):
                good = [s for s in init_from.steps_of(self.folder) if s < done or s == 0]
                found = f"{error.found}\n{saved}"
                last = good[-1] if good else None
                not_finite.stop(self.folder, self.parts.config, found, step=done, good=last)
            if isinstance(error, UserError):
                raise type(error)(f"{error}\n{saved}") from error
            self.progress.say(saved)
            raise
        self._tell(done, scalars, state)

    def _monitor(self, done: int, state: TrainState) -> dict[str, float]:
        started = time.monotonic()
        state = self.parts.launcher.as_global(state)
        assert self.monitor is not None  # see `_monitor_due`
        scalars, warnings = self.monitor(state)
        if self.inspect is not None:
            own, lines, pictures = self.inspect(state)
            scalars, warnings = {**scalars, **own}, warnings + lines
            for name, picture in pictures.items():
                workdir.write_picture(self.folder / "pictures" / f"{name}-{done}.png", picture)
                self.writers.picture(name, done, picture)
        scalars["monitor_seconds"] = self.progress.paused(started)
        self.writers.scalars(done, scalars)
        epoch = done / self.parts.steps_per_epoch
        shown = [
            f"{k} {v:.4g}"
            for k, v in scalars.items()
            if k.endswith(("top1", "std", "rank", "perplexity", "ratio"))
        ]
        self.progress.say(f"epoch {epoch:g}: {'  '.join(shown)}")
        if problems := self.batches.problems.report():
            workdir.write_json(self.folder / "problems.json", problems)
            self.progress.say(f"pictures that were replaced or converted: {in_words(problems)}")
        if done:  # an untrained network is neither collapsed nor worth keeping
            self.warn(warnings)
        if done and self.best is not None:
            top1 = scalars["held_out_top1"]
            if self.best.offer(done, top1, state, self.batches.state()):
                self.progress.say(f"best so far, {100 * top1:.1f} %: {self.best.folder}")
        self.report.update(now=done == self.last)
        return scalars

    def warn(self, lines: list[str]) -> None:
        for line in lines:
            self.progress.say(f"WARNING {line}")

    def _exit(self, done: int) -> NoReturn:
        self.saved.wait()
        if jax.process_count() > 1:  # a launcher may stop the others when the first one exits
            multihost_utils.sync_global_devices("the last state is saved")
        self.report.update(state="stopped", now=True)
        self.progress.say(
            f"Asked to stop: the state after step {done} is saved in {self.folder}.\n"
            f"To resume, type the same command again: {versions.command()}"
        )
        raise SystemExit(stopping.STATUS)
