"""Reads video files, one folder a class as in ImageNet-P. Needs the extra `video` (PyAV).

gaussian_noise/n01440764/ILSVRC2012_val_00000293.mp4
"""

import collections
import importlib.util
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from jssl.data.decode import MAX_PIXELS, PictureError
from jssl.data.pipeline import default_threads
from jssl.errors import UserError
from jssl.regular import MAX_MEGABYTES, FileError, read_file

ENDING = ".mp4"


def can_read_videos() -> bool:
    """Whether the decoder is installed."""
    return importlib.util.find_spec("av") is not None


def read_video(path: str | Path) -> np.ndarray:
    """Returns all frames of a video, in order: uint8 [T,H,W,3] in RGB.

    Raises:
        UserError: the decoder is not installed.
        PictureError: a file that is no video, a damaged one, or one without frames.
    """
    if not can_read_videos():
        raise UserError("Reading videos needs PyAV. Type pip install 'jssl[video]'.")
    import av

    try:
        data = read_file(path, MAX_MEGABYTES * 2**20)
    except FileError as error:
        raise PictureError(f"Video '{path}' {error}.") from error
    frames, left = [], MAX_PIXELS
    try:
        # Only as MP4: a play list would open other files and addresses.
        with av.open(io.BytesIO(data), mode="r", format="mp4") as container:
            for frame in container.decode(video=0):
                left -= frame.width * frame.height
                if left < 0:
                    raise PictureError(
                        f"Video '{path}' has more than {MAX_PIXELS:,} pixels in all its frames; "
                        "expected fewer. Make it shorter or smaller."
                    )
                frames.append(frame.to_ndarray(format="rgb24"))
    except (av.FFmpegError, IndexError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise PictureError(f"Video '{path}' cannot be decoded: {error}.") from error
    if not frames:
        raise PictureError(f"Video '{path}' has no frames.")
    return np.stack(frames)


def list_videos(folder: str | Path) -> list[str]:
    """Returns the videos in a folder of class folders, as `class/name.mp4`, sorted.

    Raises:
        UserError: no such folder, or no videos in it.
    """
    folder = Path(folder)
    videos = sorted(
        f"{path.parent.name}/{path.name}"
        for path in folder.glob(f"*/*{ENDING}")
        if not path.name.startswith(".")
    )
    if not videos:
        raise UserError(
            f"'{folder}' holds no videos: expected CLASS/NAME{ENDING} in it. Unpack the archives "
            "there, or type another --data_dir."
        )
    return videos


def video_batches(
    folder: str | Path, names: list[str], *, batch_size: int, threads: int = 0
) -> Iterator[np.ndarray]:
    """Yields batches of videos in order: uint8 [B,T,H,W,3], the last batch shorter.

    Threads read ahead.

    Raises:
        UserError: videos that differ in their number of frames or their size.
        PictureError: as `read_video`.
    """
    folder = Path(folder)
    threads = threads or default_threads()
    with ThreadPoolExecutor(threads) as pool:
        waiting: collections.deque = collections.deque()
        ahead = batch_size + threads
        batch: list[np.ndarray] = []
        for i in range(len(names) + ahead):
            if i < len(names):
                waiting.append(pool.submit(read_video, folder / names[i]))
            if i < ahead or not waiting:
                continue
            batch.append(waiting.popleft().result())
            if len(batch) == batch_size or not waiting:
                yield _stack(batch, folder)
                batch = []


def _stack(videos: list[np.ndarray], folder: Path) -> np.ndarray:
    shapes = sorted({video.shape for video in videos})
    if len(shapes) > 1:
        raise UserError(
            f"Videos of '{folder}' differ: found {shapes[0]} and {shapes[-1]}, frames x height x "
            "width x channels; expected one shape. Unpack the archives again."
        )
    return np.stack(videos)
