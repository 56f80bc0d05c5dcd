"""Experiment trackers of a run: W&B and MLflow, and the pictures of TensorBoard.

W&B and MLflow get the config, tags, numbers and pictures; TensorBoard's numbers are written by
`jssl.run.writers`.

A start of a run opens them, and so does the evaluation at the end; the ids of their runs are kept
in the workdir (`wandb_id.txt`, `mlflow_id.txt`), so that all starts are one run there. Only process
0 sends. A tracker that fails while the run trains ends no run: a warning says so, and this start
sends nothing more to it.
"""

import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

import jax
import numpy as np
from ml_collections import ConfigDict

from jssl import config as config_lib
from jssl import files
from jssl.errors import UserError
from jssl.run import versions
from jssl.run.writers import say
from jssl.third_party import unchanged

ENDS = ("FINISHED", "FAILED", "KILLED")  # of a start, as MLflow names them
MOST_AT_ONCE = 100  # settings or numbers of one request to MLflow, its limit for settings
MOST_LETTERS = 500  # of the value of a setting there


class Sink(Protocol):
    """A tracker."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Sends named numbers of one step."""

    def picture(self, name: str, step: int, pixels: np.ndarray) -> None:
        """Sends a picture uint8 [H,W,3]."""

    def table(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the numbers of the table at the end."""

    def close(self, end: str) -> None:
        """Ends this start; `end` is one of `ENDS`."""


class Sinks:
    """All trackers of a run; those that fail are left out, with a warning.

    Args:
        sinks: name -> tracker.
    """

    def __init__(self, sinks: Mapping[str, Sink]):
        self._sinks = dict(sinks)

    def _each(self, call: Callable[[Sink], None]) -> None:
        for name, sink in list(self._sinks.items()):
            try:
                call(sink)
            except Exception as error:  # a server that is away must not end a run of days
                del self._sinks[name]
                say(
                    f"WARNING {name} failed, and gets nothing more until the run starts again "
                    f"({type(error).__name__}: {_one_line(error)})"
                )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Sends named numbers of one step."""
        self._each(lambda sink: sink.scalars(step, values))

    def picture(self, name: str, step: int, pixels: np.ndarray) -> None:
        """Sends a picture uint8 [H,W,3]."""
        self._each(lambda sink: sink.picture(name, step, pixels))

    def table(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the numbers of the table at the end, as `final/NAME`."""
        named = {f"final/{name}": value for name, value in values.items()}
        self._each(lambda sink: sink.table(step, named))

    def close(self, end: str = "FINISHED") -> None:
        """Ends this start; `end` is one of `ENDS`."""
        self._each(lambda sink: sink.close(end))

    def __enter__(self) -> "Sinks":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.close(end_of(error))


def end_of(error: BaseException | None) -> str:
    """Returns the one of `ENDS` for what a start ended with: nothing, a request to stop, an error.

    Example:
        >>> end_of(None), end_of(SystemExit(75)), end_of(ValueError())
        ('FINISHED', 'KILLED', 'FAILED')
    """
    if error is None:
        return "FINISHED"
    return "FAILED" if isinstance(error, Exception) else "KILLED"


def check(config: ConfigDict) -> None:
    """Checks that the packages of the trackers are installed, before anything is computed.

    Raises:
        UserError: one that is not.
    """
    if config.log.wandb_project:
        _import_wandb()
    if config.log.mlflow_uri:
        _import_mlflow()


def open_sinks(config: ConfigDict, folder: str | Path, *, required: bool = True) -> Sinks:
    """Opens the trackers that a config names, in process 0.

    Args:
        config: of the run, resolved.
        folder: the workdir.
        required: whether one that cannot be opened is an error; otherwise a warning names it.

    Raises:
        UserError: a package that is not installed, or a tracker that cannot be opened.
    """
    makers: dict[str, Callable[[], Sink]] = {}
    if jax.process_index() == 0:
        folder = Path(folder).absolute()
        if config.log.tensorboard:
            makers["TensorBoard"] = lambda: Board(folder)
        if config.log.wandb_project:
            makers["W&B"] = lambda: Wandb(config, folder)
        if config.log.mlflow_uri:
            makers["MLflow"] = lambda: Mlflow(config, folder)
    sinks: dict[str, Sink] = {}
    for name, make in makers.items():
        try:
            sinks[name] = make()
        except UserError as error:
            if required:
                raise
            say(f"WARNING {name} gets neither the table nor the pictures: {error}")
    return Sinks(sinks)


def name_of(folder: Path) -> str:
    """Returns the name of a run: of its workdir, for a stage with that of the whole run.

    Example:
        >>> name_of(Path('runs/simclr'))
        'simclr'
    """
    whole = folder.parent
    return f"{whole.name}/{folder.name}" if (whole / "stages.json").exists() else folder.name


def tags_of(config: ConfigDict) -> dict[str, str]:
    """Returns the tags of a run: its method, its data, and the version of jssl."""
    return {
        "method": config.method, "data": config.data.name, "jssl": versions.jssl_version()
    }  # fmt: skip


class Board:
    """The pictures of TensorBoard, in a folder of their own beside the numbers of the run.

    Two writers of one folder would hide each other's events.

    Args:
        folder: the workdir.
    """

    def __init__(self, folder: Path):
        self._folder = folder / "tensorboard" / "pictures"
        self._writer: Any = None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Does nothing: `jssl.run.writers` has written them."""

    def picture(self, name: str, step: int, pixels: np.ndarray) -> None:
        """Writes a picture uint8 [H,W,3]."""
        if self._writer is None:
            with unchanged():
                from tensorboardX import SummaryWriter

                self._writer = SummaryWriter(str(self._folder))
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def table(self, step: int, values: Mapping[str, float]) -> None:
        """Does nothing: the table is in `result.json` and in the report."""

    def close(self, end: str) -> None:
        """Ends this start."""
        if self._writer is not None:
            self._writer.close()


class Wandb:
    """W&B; a run that resumes continues its run there.

    Args:
        config: of the run, resolved.
        folder: the workdir.
    """

    def __init__(self, config: ConfigDict, folder: Path):
        self._wandb = _import_wandb()
        tags = tags_of(config)
        id_file = folder / "wandb_id.txt"
        if not _read(id_file):
            files.write_text(id_file, os.urandom(4).hex())
        try:
            self._run = self._wandb.init(
                id=_read(id_file), resume="allow", dir=str(folder), name=name_of(folder),
                project=config.log.wandb_project, mode=config.log.wandb_mode,
                config=_flat(config), tags=[tags["method"], tags["data"], f"jssl {tags['jssl']}"],
            )  # fmt: skip
        except Exception as error:
            raise UserError(
                f"W&B cannot be opened (config.log.wandb_project={config.log.wandb_project}): "
                f"{_one_line(error)} Type --config.log.wandb_mode=offline, or "
                "--config.log.wandb_project='' for none."
            ) from error

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Sends named numbers of one step."""
        self._run.log(dict(values), step=step)

    def picture(self, name: str, step: int, pixels: np.ndarray) -> None:
        """Sends a picture uint8 [H,W,3]."""
        # Without `step`: W&B drops what comes for a step before its last one, as at the end of a
        # run that was opened again.
        self._run.log({f"pictures/{name}": self._wandb.Image(pixels, caption=f"step {step}")})

    def table(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the numbers of the table at the end, to the summary of the run."""
        self._run.summary.update(dict(values))

    def close(self, end: str) -> None:
        """Ends this start."""
        self._run.finish(exit_code=ENDS.index(end))


class Mlflow:
    """MLflow; a run that resumes continues its run there, and sends no number twice.

    Args:
        config: of the run, resolved.
        folder: the workdir.
    """

    def __init__(self, config: ConfigDict, folder: Path):
        self._mlflow, uri = _import_mlflow(), config.log.mlflow_uri
        id_file = folder / "mlflow_id.txt"
        try:
            self._client = self._mlflow.MlflowClient(tracking_uri=uri)
            experiment = self._experiment(uri, config.log.mlflow_experiment)
            if not _read(id_file):
                run = self._client.create_run(experiment, run_name=name_of(folder))
                files.write_text(id_file, run.info.run_id)
            self._id = _read(id_file)
            run = self._client.get_run(self._id)
            if run.info.lifecycle_stage != "active":
                raise ValueError(f"Its run {self._id} is deleted.")
            self._client.update_run(self._id, status="RUNNING")
            self._describe(run.data, config)
            self._last = {
                key: max(point.step for point in self._client.get_metric_history(self._id, key))
                for key in run.data.metrics
            }
        except Exception as error:
            raise UserError(
                f"MLflow cannot be opened (config.log.mlflow_uri={uri}): {_one_line(error)} Type "
                "for example --config.log.mlflow_uri=sqlite:///mlflow.db, or "
                f"--config.log.mlflow_uri='' for none. To begin another run there delete {id_file}."
            ) from error

    def _experiment(self, uri: str, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        place = None
        if uri.startswith("sqlite:///"):  # beside it, not in the folder where a run is started
            path = Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0])).absolute()
            place = (path.parent / "mlflow_artifacts").as_uri()
        return str(self._client.create_experiment(name, artifact_location=place))

    def _describe(self, data: Any, config: ConfigDict) -> None:
        """Sends tags and settings; one that has changed is a tag, as MLflow keeps the first."""
        for key, value in tags_of(config).items():
            self._client.set_tag(self._id, key, value)
        new = []
        for key, value in _flat(config).items():
            text = str(value)[:MOST_LETTERS]
            if key not in data.params:
                new.append(self._mlflow.entities.Param(key, text))
            elif data.params[key] != text:
                self._client.set_tag(self._id, f"config.{key}", text)
        for i in range(0, len(new), MOST_AT_ONCE):
            self._client.log_batch(self._id, params=new[i : i + MOST_AT_ONCE])

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Sends named numbers of one step, but those that an earlier start has sent."""
        now = round(1000 * time.time())
        new = [
            self._mlflow.entities.Metric(_key(name), float(value), now, step)
            for name, value in values.items()
            if step > self._last.get(_key(name), -1)
        ]
        for i in range(0, len(new), MOST_AT_ONCE):
            self._client.log_batch(self._id, metrics=new[i : i + MOST_AT_ONCE])

    def picture(self, name: str, step: int, pixels: np.ndarray) -> None:
        """Sends a picture uint8 [H,W,3]."""
        self._client.log_image(self._id, pixels, artifact_file=f"pictures/{name}-{step}.png")

    def table(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the numbers of the table at the end."""
        self.scalars(step, values)

    def close(self, end: str) -> None:
        """Ends this start."""
        self._client.set_terminated(self._id, status=end)


def _import_wandb() -> Any:
    try:
        with unchanged():
            import wandb
    except ImportError:
        raise _not_installed("wandb_project", "wandb") from None
    return wandb


def _import_mlflow() -> Any:
    try:
        with unchanged():
            import mlflow
            import mlflow.entities
    except ImportError:
        raise _not_installed("mlflow_uri", "mlflow") from None
    return mlflow


def _not_installed(key: str, package: str) -> UserError:
    return UserError(
        f"config.log.{key} is set, but {package} is not installed. "
        f"Type pip install 'jssl[{package}]', or --config.log.{key}=''."
    )


def _flat(config: ConfigDict) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v
            for k, v in config_lib.flatten(config).items()}  # fmt: skip


def _key(name: str) -> str:
    """Returns a name of the letters that MLflow allows.

    Example:
        >>> _key('final/kNN/raw pixels (3,072-d)')
        'final/kNN/raw pixels _3_072-d_'
    """
    return re.sub(r"[^\w.\-/: ]", "_", name, flags=re.ASCII)


def _read(path: Path) -> str:
    return path.read_text(errors="replace").strip() if path.exists() else ""


def _one_line(error: BaseException) -> str:
    """Returns the first words of an error."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 600 else f"{text[:600]} ..."
