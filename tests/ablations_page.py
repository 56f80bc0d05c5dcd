"""The tables of docs/ablations.md, made from `configs/results/ablation_*.json`."""

import json
import math
import statistics
from pathlib import Path

import numpy as np

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
    """The values of a metric after each epoch: for each run a list."""
    return [[value for step, value in run["curves"][""][name] if step] for run in runs]


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
        "k1000": "DeepCluster, 1,000 clusters",
        "k1000_empty_kept": "1,000 clusters, empty ones stay empty",
        "k1000_neither": "1,000 clusters, empty ones stay, and no uniform sampling",
    }
    head = ("run", "kNN top-1 %", "NMI with the labels, clustering 1, 2, ...",
            "NMI with the clustering before", "empty", "largest cluster %",
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


CORRUPTIONS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"),
    "blur": ("defocus_blur", "gaussian_blur"),
    "light": ("brightness", "contrast"),
    "pixels, JPEG": ("pixelate", "jpeg_compression"),
}


def noisy_student():
    names = {
        "student": "as it is",
        "no_noise": "without noise: no RandAugment, no dropout",
        "no_randaugment": "without RandAugment",
        "no_dropout": "without dropout",
        "larger_student": "a student of 1.5 times the width",
        "hard_labels": "hard pseudo-labels",
        "more_unlabelled": "6 unlabelled tiles for a labelled one, not 3",
    }
    generations = {
        "1_teacher": "teacher", "3_student": "first student", "5_student": "second student",
        "7_student": "third student",
    }  # fmt: skip
    rows = rows_of(runs_of("noisy_student"))
    lines = [
        robustness_line(text, rows["generations"], part, teacher="")
        for part, text in generations.items()
    ]
    for row, text in names.items():
        if row in rows:
            teacher = spread([100 * run["teacher_top1"] for run in rows[row]])
            text = f"first student, {text}"
            lines.append(robustness_line(text, rows[row], "2_student", teacher=teacher))
    head = (
        "network",
        "its teacher, top-1 %",
        "top-1 %",
        *(f"error on {kind} %" for kind in CORRUPTIONS),
        "seeds",
    )
    return table(head, lines)


def robustness_line(text, runs, part, *, teacher):
    """Clean top-1, and the mean errors of kinds of corruption over their severities."""
    cells = {name: [] for name in ("top1", *CORRUPTIONS)}
    for run in runs:
        clean = run["numbers"][part]["robustness"][0]
        cells["top1"].append(100 - 100 * clean["numbers"]["trained"]["value"])
        for kind, members in CORRUPTIONS.items():
            errors = [e for name in members for e in clean["errors"][f"regenerated/{name}"]]
            cells[kind].append(100 * statistics.fmean(errors))
    return (text, teacher, *(spread(values) for values in cells.values()), seeds(runs))


def dvae():
    names = {
        "dvae": "configs/dvae_photos.py: 2,000 updates, 512 codes",
        "beta_0": "no KL",
        "beta_3": "KL weight 0.003 (0.01 otherwise)",
        "lr_3": "learning rate 0.003 (0.01 otherwise)",
        "lr_30": "learning rate 0.03",
        "tau_01": "last temperature 0.1 (0.3 otherwise)",
        "whole": "whole tiles, no random crops",
        "wide": "twice the width",
        "wide_whole": "twice the width, whole tiles",
        "codes_2048": "2,048 codes, whole tiles",
        "long": "twice the width, whole tiles, 5,500 updates",
    }
    rows = rows_of(runs_of("dvae"))
    codes = json.loads((RESULTS / "patch_kmeans.json").read_text())["rows"]
    lines = []
    for row in (row for row in names if row in rows):
        perplexities = [points[-1] for points in curve(rows[row], "codes/perplexity")]
        entropy = statistics.fmean(map(math.log, perplexities))
        kl = statistics.fmean(points[-1] for points in curve(rows[row], "kl"))
        # What a drawn token says of its picture is at most the entropy of the codes, and at most
        # the KL to codes that are all as likely.
        carried = min(entropy, kl)
        lines.append(
            (names[row], last(rows[row], "reconstruction_mse_ratio", False),
             last(rows[row], "codes/perplexity", False), f"{entropy:.2f}", f"{kl:.2f}",
             f"{carried:.2f}", at_entropy(codes, carried), seeds(rows[row]))
        )  # fmt: skip
    head = ("run", "error over constant patches",
            "perplexity of the codes", "their entropy, nats", "KL, nats a token",
            "a drawn token carries at most, nats", "k-means with as many", "seeds")  # fmt: skip
    kmeans = [(f"{row['k']:,}", f"{row['ratio']:.2f}", f"{row['entropy']:.2f}") for row in codes]
    soft = json.loads((RESULTS / "dvae_soft_codes.json").read_text())
    text = (
        f"\nDecoded from the most probable code of each place (a run like the first, of another "
        f"machine; {soft['tiles']:,} test tiles): {soft['most_probable']:.2f}; from the "
        f"probabilities of all codes: {soft['probabilities']:.2f}.\n\nk-means of the patches:\n\n"
    )
    return table(head, lines) + text + table(("centres", "error over constant patches",
                                              "entropy, nats"), kmeans)  # fmt: skip


def at_entropy(codes, entropy):
    """The error of k-means whose codes have this entropy, between the two nearest records."""
    least = codes[0]
    if entropy < least["entropy"]:
        return f"above {least['ratio']:.2f}"
    ratio = np.interp(entropy, [c["entropy"] for c in codes], [c["ratio"] for c in codes])
    return f"{ratio:.2f}"


def transfer():
    """Top-1 on the digits of the trained network, of the untrained one and of the pixels."""
    lines = []
    for row, runs in rows_of(runs_of("transfer")).items():
        tops = [run["numbers"][""]["logistic --source=digits"][0]["top1"] for run in runs]
        cells = (spread([100 * top[kind] for top in tops]) for kind in ("trained", "untrained",
                                                                        "raw pixels"))  # fmt: skip
        lines.append((row, *cells, seeds(runs)))
    return table(("network", "trained %", "untrained %", "raw pixels %", "seeds"), lines)


def quick_start():
    names = {
        "paper": "the paper's jitter: strength 0.5, 20 % grey views, temperature 0.2",
        "half": "strength 0.25, 10 % grey views",
        "half_t5": "strength 0.25, 10 % grey views, temperature 0.5",
        "half_t5_crop": "the same, crops of at least a fifth of the tile",
        "weak": "strength 0.1, no grey views, temperature 0.5: configs/simclr_photos.py",
    }
    rows, lines = rows_of(runs_of("quick_start")), []
    for row in (row for row in names if row in rows):
        points = [[100 * v for _, v in run["curves"][""]["knn_top1"]] for run in rows[row]]
        cells = [spread(list(values)) for values in zip(*points, strict=True)]
        lines.append((names[row], *cells, seeds(rows[row])))
    epochs = (f"epoch {epoch}" for epoch in range(1, len(cells)))
    return table(("augmentation", "untrained", *epochs, "seeds"), lines)


PAGES = (byol, deepcluster, cmc_views, deit, beit, noisy_student, dvae, transfer, quick_start)
STUDIES = {f.__name__: f for f in PAGES}


def page(old):
    """The page with its tables made anew."""
    for name, text in STUDIES.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        if begin in old:
            before, rest = old.split(begin)
            made = f"Not run yet: `python launch/ablations.py --study={name}`.\n"
            if (RESULTS / f"ablation_{name}.json").exists():
                made = text()
            old = f"{before}{begin}\n{made}{end}{rest.split(end)[1]}"
    return old
