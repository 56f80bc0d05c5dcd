"""Data: sources with one protocol, decoding, host crops, and the deterministic pipeline."""

from jssl.data.build import DEFAULTS as DEFAULTS
from jssl.data.build import eval_transform as eval_transform
from jssl.data.build import has_split as has_split
from jssl.data.build import make_source as make_source
from jssl.data.build import train_transform as train_transform
from jssl.data.crop import CentreCrop as CentreCrop
from jssl.data.crop import HostCrop as HostCrop
from jssl.data.decode import Picture as Picture
from jssl.data.decode import PictureError as PictureError
from jssl.data.decode import decode as decode
from jssl.data.folder import FolderSource as FolderSource
from jssl.data.pipeline import shuffled as shuffled
from jssl.data.pipeline import train_batches as train_batches
from jssl.data.scenes import SceneSource as SceneSource
from jssl.data.scenes import arrays_source as arrays_source
from jssl.data.scenes import synthetic_scenes as synthetic_scenes
from jssl.data.scenes import synthetic_video as synthetic_video
from jssl.data.sources import ArraySource as ArraySource
from jssl.data.sources import Source as Source
from jssl.data.sources import digits_source as digits_source
from jssl.data.sources import photos_source as photos_source
from jssl.data.sources import synthetic_source as synthetic_source
from jssl.data.sweep import eval_batches as eval_batches
from jssl.data.tfds_source import CATALOGUE as CATALOGUE
from jssl.data.tfds_source import TfdsSource as TfdsSource
from jssl.data.uniform import uniform_over_clusters as uniform_over_clusters
