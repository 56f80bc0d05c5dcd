"""Data: sources with one protocol, decoding, host crops, and the deterministic pipeline."""

from jssl.data.sources import ArraySource as ArraySource
from jssl.data.sources import Source as Source
from jssl.data.sources import photos_source as photos_source

# config.data, with the default of each key.
DEFAULTS = {
    "name": "photos",
    "data_dir": "",
    "train_split": "",
    "test_split": "",
    "image_size": 0,
    "tile": 32,
    "workers": 0,
    "host_crop": "",
    "on_error": "stop",
}


def make_source(config, split):
    """The split ('train' or 'test') of the data set that the config names."""
    return photos_source(split, tile=config.tile)
