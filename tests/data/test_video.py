"""Files that are named as videos but are something else."""

import os

import av
import numpy as np
import pytest

from jssl.data import PictureError, read_video, video


def film(path, count):
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for _ in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 99, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_play_lists_are_not_followed(tmp_path):
    """ffmpeg detects a play list by its content, not its name, and opens the files in it."""
    film(tmp_path / "secret.mp4", 2)
    assert read_video(tmp_path / "secret.mp4").shape == (2, 32, 48, 3)
    secret = tmp_path / "secret.mp4"
    lists = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{secret}\n#EXT-X-ENDLIST\n",
        "concat": "ffconcat version 1.0\nfile secret.mp4\n",
    }
    for name, text in lists.items():
        (tmp_path / f"{name}.mp4").write_text(text)
        with pytest.raises(PictureError, match=f"{name}.mp4' cannot be decoded"):
            read_video(tmp_path / f"{name}.mp4")


def test_videos_must_be_regular_files_of_bounded_size(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(PictureError, match="pipe.mp4' is no regular file but a pipe"):
        read_video(tmp_path / "pipe.mp4")
    with open(tmp_path / "holes.mp4", "wb") as file:
        file.truncate(2**35)
    with pytest.raises(PictureError, match="holes.mp4' has 34,359,738,368 bytes"):
        read_video(tmp_path / "holes.mp4")
    monkeypatch.setattr(video, "MAX_PIXELS", 3 * 32 * 48)
    film(tmp_path / "three.mp4", 3)
    assert len(read_video(tmp_path / "three.mp4")) == 3
    film(tmp_path / "four.mp4", 4)
    with pytest.raises(PictureError, match="four.mp4' has more than 4,608 pixels in all"):
        read_video(tmp_path / "four.mp4")
