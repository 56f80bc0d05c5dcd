"""Pure updates of the leaves that a method's state adds: averages, queues, banks, centroids."""

from jssl.state.ema import cosine_momentum as cosine_momentum
from jssl.state.ema import ema as ema
