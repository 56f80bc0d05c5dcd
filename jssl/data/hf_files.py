"""Opens data sets of Hugging Face `datasets` from the disk: nothing is downloaded, no code is run.

    hf:OWNER/NAME[:CONFIG]   CACHE/OWNER___NAME/CONFIG/VERSION/HASH/NAME-SPLIT*.arrow, as
                             `datasets.load_dataset` leaves it
    hf with data_dir=FOLDER  of `save_to_disk`: FOLDER/SPLIT/state.json, or FOLDER/state.json
                             of parquet: FOLDER/**/SPLIT-*.parquet or FOLDER/**/SPLIT/*.parquet

The arrow files are mapped into memory. `load_dataset` itself is never called, which could ask the
network and, in old versions, run a script.
"""

import contextlib
import glob
import importlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jssl.data.items import reason_of
from jssl.data.walk import printable
from jssl.errors import UserError, nearest
from jssl.regular import MAX_LIST, FileError, read_file
from jssl.third_party import unchanged

SPLITS = ("train", "val", "validation", "test")
TESTS = ("val", "test", "validation")  # in the order of a folder's sub-folders
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.+-]+)?")


def library() -> Any:
    """Imports the package `datasets`.

    Raises:
        UserError: it is not installed.
    """
    try:
        with unchanged():
            return importlib.import_module("datasets")
    except ImportError as error:
        raise UserError(
            "Hugging Face data sets need the package datasets, which is not installed. Type "
            "pip install 'jssl[hf]'."
        ) from error


def find_splits(name: str, data_dir: str) -> tuple[Path, dict[str, list[Path]]]:
    """Finds the files of each split.

    Args:
        name: 'hf', or 'hf:NAME' of a data set in the cache.
        data_dir: the folder; with 'hf:NAME' another cache than that of `datasets`.

    Returns:
        The folder, and the files of each split, all of arrow or all of parquet.

    Raises:
        UserError: no such data set, several configurations, or missing files.
    """
    if name == "hf":
        if not data_dir:
            raise UserError(
                "Data set 'hf' needs a folder of save_to_disk or of parquet files; data.data_dir "
                "is empty. Type --config.data.data_dir=FOLDER, or --config.data.name=hf:NAME for a "
                "data set in the cache."
            )
        folder = Path(data_dir).expanduser()
        if not folder.is_dir():
            raise UserError(f"'{folder}' is no folder. Type --config.data.data_dir=FOLDER.")
        return folder, _saved(folder) or _parquet(folder)
    folder = _cached(name.removeprefix("hf:"), data_dir)
    return folder, _prepared(folder)


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(read_file(path, MAX_LIST))
    except (FileError, ValueError, RecursionError) as error:
        raise UserError(f"'{path}' cannot be read: {error}. Copy the data set again.") from error
    if not isinstance(content, dict):
        raise UserError(f"'{path}' holds no object in JSON. Copy the data set again.")
    return content


def _cached(name: str, data_dir: str) -> Path:
    """Returns the folder of a data set in the cache; the newest of several versions."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise UserError(
            f"Data set 'hf:{name}' is no name: expected hf:NAME, hf:OWNER/NAME or "
            "hf:OWNER/NAME:CONFIG. For a folder type --config.data.name=hf "
            "--config.data.data_dir=FOLDER."
        )
    cache = Path(data_dir or library().config.HF_DATASETS_CACHE).expanduser()
    base, _, config = name.partition(":")
    top = cache / base.replace("/", "___")
    load = f"python -c \"import datasets; datasets.load_dataset('{base}')\""
    names = _folders(top)
    if not names:
        stored = ", ".join(n.replace("___", "/") for n in _folders(cache)[:10]) or "none"
        raise UserError(
            f"Data set 'hf:{base}' is not in the cache '{cache}', which has: {stored}. jssl does "
            f"not download it: type {load}, or --config.data.data_dir=CACHE."
        )
    if config and config not in names:
        raise UserError(f"Data set 'hf:{base}' has no '{config}': {nearest(config, names)}.")
    if not config and len(names) > 1:
        raise UserError(
            f"Data set 'hf:{base}' has {len(names)} configurations: {', '.join(names)}. Type for "
            f"example --config.data.name=hf:{base}:{names[0]}."
        )
    infos = [*(top / (config or names[0])).glob("*/*/dataset_info.json")]
    infos = [path for path in infos if not path.parent.name.endswith(".incomplete")]
    if not infos:
        raise UserError(f"Data set 'hf:{name}' in '{top}' is not complete. Type {load}.")
    return max(infos, key=lambda path: (path.stat().st_mtime, str(path))).parent


def _folders(path: Path) -> list[str]:
    if not path.is_dir():
        return []
    return sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _prepared(folder: Path) -> dict[str, list[Path]]:
    """Returns the arrow files of each split that dataset_info.json lists."""
    info = _read_json(folder / "dataset_info.json").get("splits")
    splits: dict[str, list[Path]] = {}
    for name in info if isinstance(info, dict) else ():
        end = re.compile(rf".+-{re.escape(name)}(-(\d{{5}})-of-(\d{{5}}))?\.arrow")
        matches = [(end.fullmatch(p.name), p) for p in sorted(folder.glob("*.arrow"))]
        files = [(match, path) for match, path in matches if match]
        expected = int(files[0][0][3] or 1) if files else 1
        if len(files) != expected:
            raise UserError(
                f"Folder '{folder}' has {len(files)} arrow files of split '{printable(name)}': "
                f"expected {expected}. Copy the data set again."
            )
        splits[name] = [path for _, path in files]
    if not splits:
        raise UserError(f"'{folder}' lists no splits. Load the data set again.")
    return splits


def _saved(folder: Path) -> dict[str, list[Path]]:
    """Returns the arrow files of each split of `save_to_disk`; {} for another folder."""
    if (folder / "state.json").exists():
        return {"train": _of_state(folder)}
    if not (folder / "dataset_dict.json").exists():
        return {}
    names = _read_json(folder / "dataset_dict.json").get("splits")
    if not isinstance(names, list) or not names or not all(_is_name(name) for name in names):
        raise UserError(f"'{folder / 'dataset_dict.json'}' lists no splits. Save it again.")
    return {name: _of_state(folder / name) for name in names}


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and bool(re.fullmatch(r"[\w.-]*\w[\w.-]*", name))


def _of_state(folder: Path) -> list[Path]:
    files = _read_json(folder / "state.json").get("_data_files")
    names: list[Any] = [f.get("filename") for f in files or () if isinstance(f, dict)]
    if not names or not all(_is_name(name) for name in names):
        raise UserError(f"'{folder / 'state.json'}' lists no files. Save the data set again.")
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise UserError(
            f"Folder '{folder}' lacks '{missing[0]}', which its state.json lists. Copy the data "
            "set again."
        )
    return [folder / name for name in names]


def _parquet(folder: Path) -> dict[str, list[Path]]:
    """Returns the parquet files of each split, by their names or folders."""
    splits: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        own = re.split(r"[-_.]", path.name)[0]
        name = own if own in SPLITS else path.parent.name if path.parent.name in SPLITS else ""
        splits.setdefault(name, []).append(path)
    if not splits:
        raise UserError(
            f"Folder '{folder}' holds no data set of save_to_disk and no parquet files. Type "
            "--config.data.data_dir=FOLDER."
        )
    if "" in splits and len(splits) > 1:
        raise UserError(
            f"Folder '{folder}' holds parquet files of {', '.join(sorted(set(splits) - {''}))}, "
            f"and others of no split, such as '{printable(splits[''][0].name)}': expected names "
            "that start with train, test or validation. Move the others away."
        )
    return {name or "train": paths for name, paths in splits.items()}


def choose_split(splits: Mapping[str, Any], wanted: str, typed: str, *, name: str) -> str:
    """Returns the name of the split to read.

    Args:
        splits: those that are there.
        wanted: 'train', 'probe' or 'test'.
        typed: `config.data.*_split`; '' for train, and val, test or validation.
        name: of the data set, for messages.

    Raises:
        UserError: there is none.

    Example:
        >>> choose_split({'train': 0, 'validation': 0}, 'test', '', name='hf:a')
        'validation'
    """
    names = [typed] if typed else [*TESTS] if wanted == "test" else ["train"]
    for choice in names:
        if choice in splits:
            return choice
    raise UserError(
        f"Data set '{name}' has no split {' or '.join(names)}: "
        f"{nearest(names[0], splits)}. Type --config.data.{wanted}_split=SPLIT."
    )


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Keeps `datasets` and its hub from the network."""
    hub = importlib.import_module("huggingface_hub.constants")
    places = ((library().config, "HF_DATASETS_OFFLINE"), (library().config, "HF_HUB_OFFLINE"),
              (hub, "HF_HUB_OFFLINE"))  # fmt: skip
    before = [(place, key, getattr(place, key, None)) for place, key in places]
    try:
        for place, key in places:
            setattr(place, key, True)
        yield
    finally:
        for place, key, value in before:
            setattr(place, key, value)


def open_files(paths: list[Path]) -> Any:
    """Opens the files of a split as one `datasets.Dataset`.

    Parquet is first converted to arrow, once, in the cache of `datasets`.

    Raises:
        UserError: a damaged file, or files of different columns.
    """
    datasets = library()
    try:
        with offline(), unchanged():
            if paths[0].suffix == ".parquet":
                return datasets.Dataset.from_parquet([glob.escape(str(p)) for p in paths])
            parts = [datasets.Dataset.from_file(str(path)) for path in paths]
            return datasets.concatenate_datasets(parts)
    except Exception as error:  # pyarrow and datasets raise many types
        reason = reason_of(error.__cause__ or error)
        raise UserError(
            f"The data set in '{paths[0].parent}' cannot be read: {reason}. Copy or load it again."
        ) from error
