"""jssl: self-supervised, semi-supervised and data-efficient vision training in JAX.

from jssl import losses                                  # a loss as a pure function
from jssl.methods import simclr                          # a method as pure functions
embed, state = jssl.load_encoder('runs/simclr_photos')   # a trained network
"""

from jssl.errors import UserError as UserError
from jssl.experiment import load_encoder as load_encoder
from jssl.types import Method as Method
from jssl.types import RunLengths as RunLengths
from jssl.types import TrainState as TrainState
