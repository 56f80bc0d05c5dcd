"""Optimisers: `build` makes one, with its schedule, from a config."""

from jssl.optim.factory import DEFAULTS as DEFAULTS
from jssl.optim.factory import OPTIMISERS as OPTIMISERS
from jssl.optim.factory import build as build
from jssl.optim.factory import rate_warning as rate_warning
from jssl.optim.lars import lars as lars
from jssl.optim.layers import layer_scales as layer_scales
from jssl.optim.layers import scale_by_layer as scale_by_layer
from jssl.optim.layers import scale_by_name as scale_by_name
from jssl.optim.masks import EVERYTHING as EVERYTHING
from jssl.optim.masks import EXCLUDE_NORM_AND_BIAS as EXCLUDE_NORM_AND_BIAS
from jssl.optim.masks import TRANSFORMER as TRANSFORMER
from jssl.optim.masks import groups as groups
from jssl.optim.masks import mask as mask
from jssl.optim.schedules import UPDATES as UPDATES
from jssl.optim.schedules import count_updates as count_updates
from jssl.optim.schedules import make_schedule as make_schedule
from jssl.optim.schedules import scale as scale
