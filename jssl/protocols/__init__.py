"""How finished runs are judged and used: `jssl evaluate` and `jssl embed`."""

from jssl import third_party as third_party  # before anything imports flax
from jssl.protocols.features import embed_run as embed_run
from jssl.protocols.frozen import grid_probe as grid_probe
from jssl.protocols.run import PROTOCOLS as PROTOCOLS
from jssl.protocols.run import Protocol as Protocol
from jssl.protocols.run import check_settings as check_settings
from jssl.protocols.run import evaluate_run as evaluate_run
from jssl.protocols.subject import Settings as Settings
from jssl.protocols.subject import Subject as Subject
