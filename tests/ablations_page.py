"""The tables of docs/ablations.md, made from `configs/results/ablation_*.json`."""

import json
import statistics
from pathlib import Path

from jssl.run.results import spread

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "configs" / "results"


def runs_of(study):
    return json.loads((RESULTS / f"ablation_{study}.json").read_text())["runs"]


def rows_of(runs):
    """{row: its runs, by seed}, in the order in which they were made."""
    rows = {}
    for run in sorted(runs, key=lambda run: run["seed"]):
        rows.setdefault(run["row"], []).append(run)
    return rows


def table(head, rows):
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def seeds(runs):
    return ", ".join(str(run["seed"]) for run in runs)


def curve(runs, name):
    """The values of a metric: for each run a list over the course."""
    return [[value for _, value in run["curves"][""][name]] for run in runs]


def last(runs, name, percent=True):
    values = [points[-1] for points in curve(runs, name)]
    if percent:
        return spread([100 * value for value in values])
    return f"{statistics.fmean(values):.2f}"


def over_epochs(runs, name):
    """Means over the seeds, epoch by epoch."""
    return ", ".join(f"{statistics.fmean(x):.2f}" for x in zip(*curve(runs, name), strict=True))


def top1(runs, probe, kind="trained"):
    """Mean and deviation of a row of the table at a run's end, in per cent."""
    return spread([100 * run["numbers"][""][probe][kind]["top1"] for run in runs])


def byol():
    names = {
        "byol": "BYOL",
        "no_predictor": "without the predictor",
        "tau_0": "target = online network (tau = 0)",
        "no_predictor_tau_0": "neither",
    }
    head = ("run", "kNN top-1 %", "std of projections (1: uniform)", "their effective rank",
            "loss", "the monitor warns of collapse", "seeds")  # fmt: skip
    lines = []
    for row, runs in rows_of(runs_of("byol")).items():
        warned = sum(any("projection: collapse" in w for w in run["warnings"]) for run in runs)
        lines.append((
            names[row], last(runs, "knn_top1"), last(runs, "collapse/projection_std", False),
            last(runs, "collapse/projection_effective_rank", False), last(runs, "loss", False),
            f"{warned} of {len(runs)} runs", seeds(runs),
        ))  # fmt: skip
    first = rows_of(runs_of("byol"))["byol"]
    lines.append(("untrained", top1(first, "kNN", "untrained"), "–", "–", "–", "–", seeds(first)))
    return table(head, lines)


def deepcluster():
    names = {
        "v1": "DeepCluster",
        "v2": "DeepCluster v2",
        "empty_kept": "empty clusters stay empty",
        "not_uniform": "each example once an epoch, no uniform sampling",
        "neither": "neither",
    }
    head = ("run", "kNN top-1 %", "NMI with the labels, clustering 1, 2, ...",
            "NMI with the clustering before", "empty of 100", "largest cluster %",
            "seeds")  # fmt: skip
    lines = []
    for row, runs in rows_of(runs_of("deepcluster")).items():
        lines.append((
            names[row], last(runs, "knn_top1"), over_epochs(runs, "cluster/nmi_labels"),
            over_epochs(runs, "cluster/nmi_previous"), last(runs, "cluster/empty", False),
            last(runs, "cluster/largest_share"), seeds(runs),
        ))  # fmt: skip
    return table(head, lines)


def cmc_views():
    names = {
        "two": ("L, ab", "–"),
        "three": ("and depth", "full"),
        "four": ("and normals", "full"),
        "five": ("and labels of pixels", "full"),
        "five_core": ("all five", "core"),
    }
    lines = []
    for row, runs in rows_of(runs_of("cmc_views")).items():
        by_seed = ", ".join(f"{100 * points[-1]:.1f}" for points in curve(runs, "knn_top1"))
        lines.append((*names[row], by_seed, last(runs, "knn_top1"), seeds(runs)))
    head = ("views", "graph", "kNN top-1 %, by seed", "mean ± sd", "seeds")
    return table(head, lines)


def deit():
    names = {
        "deit": "DeiT's recipe",
        "sgd": "SGD in place of AdamW",
        "no_randaugment": "without RandAugment",
        "no_mixup": "without Mixup",
        "no_cutmix": "without CutMix",
        "no_mixup_cutmix": "without both",
        "no_erasing": "without random erasing",
        "no_stochastic_depth": "without stochastic depth",
        "no_repeated": "without repeated augmentation",
        "dropout": "with dropout 0.1",
        "ema": "judged by an average of the weights (0.99)",
        "photos": "without RandAugment, stochastic depth and repetition: configs/deit_photos.py",
    }
    lines = [
        (names[row], top1(runs, "own classifier"), top1(runs, "kNN"), seeds(runs))
        for row, runs in rows_of(runs_of("deit")).items()
    ]
    return table(("run", "own classifier top-1 %", "kNN top-1 %", "seeds"), lines)


def beit():
    names = {
        "scratch_600": ("from scratch", "10 %", "600"),
        "scratch_2600": ("from scratch", "10 %", "2,600"),
        "tuned": ("BEiT, then fine-tuned", "10 %", "2,000 + 600"),
        "tuned_all": ("BEiT, then fine-tuned", "all", "2,000 + 600"),
        "scratch_all_2600": ("from scratch, the same recipe", "all", "2,600"),
        "deit_all_2600": ("from scratch, DeiT's recipe", "all", "2,600"),
    }
    rows = rows_of(runs_of("beit"))
    lines = [
        (*names[row], top1(rows[row], "own classifier"), seeds(rows[row]))
        for row in names
        if row in rows
    ]
    return table(("run", "labels", "updates", "own classifier top-1 %", "seeds"), lines)


STUDIES = {
    "byol": byol,
    "deepcluster": deepcluster,
    "cmc_views": cmc_views,
    "deit": deit,
    "beit": beit,
}


def page(old):
    """The page with its tables made anew."""
    for name, text in STUDIES.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        if begin in old:
            before, rest = old.split(begin)
            old = f"{before}{begin}\n{text()}{end}{rest.split(end)[1]}"
    return old
