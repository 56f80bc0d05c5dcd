"""Settings of predictive learning (https://arxiv.org/abs/1906.05849, section 3.1): CMC's own.

Those of the paper's predictive baseline were not published; with CMC's, runs of the two differ in
method alone.
"""

from typing import Any

from jssl import config

PRESETS: dict[str, dict[str, Any]] = {
    name: {k: v for k, v in config.presets("cmc")[name].items() if k != "cmc"}
    for name in ("v1", "v2", "v3")
}
