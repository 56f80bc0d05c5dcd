"""The tables of docs/benchmarks.md, made from the records in docs/benchmarks."""

import functools
import json
import statistics
from pathlib import Path

from jssl.run.results import spread

RECORDS = Path(__file__).parents[1] / "docs" / "benchmarks"


def record(name):
    return json.loads((RECORDS / f"{name}.json").read_text())


def table(head, rows):
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def lightly():
    """kNN per epoch of both libraries, and their difference after the last epoch."""
    runs, lines = record("lightly")["runs"], []
    for method in dict.fromkeys(run["method"] for run in runs):
        curves = {
            library: {
                run["seed"]: [100 * x for x in run["knn_top1"]]
                for run in runs
                if run["method"] == method and run["library"] == library
            }
            for library in ("jssl", "lightly")
        }
        seeds = sorted(curves["jssl"].keys() & curves["lightly"].keys())
        for library, by_seed in curves.items():
            epochs = zip(*(by_seed[seed] for seed in seeds), strict=True)
            lines.append((method, library, *(spread(values) for values in epochs), ""))
        gaps = [curves["jssl"][seed][-1] - curves["lightly"][seed][-1] for seed in seeds]
        each = ", ".join(f"{gap:+.1f}" for gap in gaps)
        lines[-1] = (*lines[-1][:-1], f"{statistics.fmean(gaps):+.1f} ({each})")
    epochs = range(len(runs[0]["knn_top1"]))
    names = ["untrained", *(f"epoch {epoch}" for epoch in epochs[1:])]
    return table(("method", "library", *names, "jssl minus lightly, by seed"), lines)


def kmeans():
    """Times of jssl and faiss, and the ratio, in each round."""
    result = record("kmeans")
    head = ("round", "jssl, with the final assignment, s", "faiss train, s", "faiss with it, s",
            "faiss / jssl", "objective over faiss's")  # fmt: skip
    lines = [
        (str(i), f"{r['jssl_seconds']:.2f}", f"{r['faiss_seconds']:.2f}",
         f"{r['faiss_with_assignment_seconds']:.2f}",
         f"{r['faiss_with_assignment_seconds'] / r['jssl_seconds']:.2f}",
         f"{100 * r['objective_over_faiss']:+.3f} %")
        for i, r in enumerate(result["rounds"], start=1)
    ]  # fmt: skip
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    size = (f"{result['points']:,} points of {result['dim']} dimensions, k = {result['k']:,}, "
            f"{result['iterations']} iterations; {versions}.")  # fmt: skip
    return f"{table(head, lines)}\n{size}\n"


def logistic():
    """Times of the path of regularisers, and scikit-learn's over jssl's."""
    result = record("logistic")
    mine, lines = max(result["jssl_seconds"]), []
    lines.append(("jssl", f"{mine:.1f}", "1"))
    lines.append(("jssl, first call, with compilation", f"{result['jssl_first_seconds']:.1f}",
                  f"{result['jssl_first_seconds'] / mine:.1f}"))  # fmt: skip
    for kind, text in (("warm", "each fit from the one before"), ("cold", "each from zero")):
        seconds = result["scikit_learn_seconds"][kind]
        lines.append((f"scikit-learn, {text}", f"{seconds:.1f}", f"{seconds / mine:.1f}"))
    gap = result["largest_objective_gap"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    count = result["regularisers"]
    note = (f"50,000 x 512, 10 classes, {count} regularisers. jssl's objective less scikit-learn's "
            f"is at most {gap:.1e}; {versions}.")  # fmt: skip
    return f"{table(('', 's', 'times as long'), lines)}\n{note}\n"


def decode():
    """Pictures a second of one core, jssl's and Pillow's."""
    result, lines = record("decode"), []
    for row in result["rows"]:
        rates = row["pictures_per_second"]
        mine, other = (statistics.median(rates[name]) for name in ("jssl", "Pillow"))
        crops = f"{row['views']} crop{'s' if row['views'] > 1 else ''} of {result['side']} px"
        lines.append((crops, f"{mine:.0f}", f"{other:.0f}", f"{mine / other:.2f}"))
    height, width = result["size"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    note = (f"JPEG files of {width} x {height}, quality {result['quality']}; medians of "
            f"{len(rates['jssl'])} rounds; {versions}.")  # fmt: skip
    head = ("a picture to", "jssl, pictures/s", "Pillow, pictures/s", "ratio")
    return f"{table(head, lines)}\n{note}\n"


def step_bytes():
    """Gigabytes of HBM an image of SimCLR's step and of a plain one, by parts."""
    result = record("bytes")
    parts = ("augmentation", "forward", "backward", "rest")
    head = ("step", "compiler's effort", "GB an image, at most", *(f"{p}, GB" for p in parts),
            "TFLOP", "all-reduces")  # fmt: skip
    lines = [
        (row["step"], f"{row['effort']:g}", f"{row['gigabytes_an_image']:.3f}",
         *(f"{row['by_part'].get(p, 0.0):.3f}" for p in parts),
         f"{row['teraflop']:.2f}", str(row["all_reduces"]))
        for row in sorted(result["rows"], key=lambda row: (row["effort"], row["step"]))
    ]  # fmt: skip
    note = f"{result['topology']}, 128 examples a chip, jax {result['jax']}."
    return f"{table(head, lines)}\n{note}\n"


def device():
    """Images/s of the paper nets on one GPU beside the roofline, and how the rest went."""
    result = record("device")
    parts = result["parts"]
    head = ("net", "batch", "images/s", "ms a step", "of the roofline", "GB an image, at most",
            "GiB")  # fmt: skip
    lines = [
        (row["name"], str(row["batch"]), f"{row['images_per_second']:.0f}",
         f"{row['step_ms']:.1f}",
         f"{row['share_of_roofline']:.0%}" if "share_of_roofline" in row else "unknown",
         f"{row['gigabytes_an_image']:.3f}", f"{row['program_bytes'] / 2**30:.1f}")
        for row in parts["bench"].get("rows", [])
        if "error" not in row
    ]  # fmt: skip
    rest = "; ".join(f"{name}: {part['status']}" for name, part in parts.items())
    note = f"{result.get('device')}, {result['date']}, {result['seconds']:.0f} s; {rest}."
    return f"{table(head, lines)}\n{note}\n"


def turns(name):
    """Times of jssl and a peer in turn, their ratios, and what else a row says."""
    lines = []
    for title, row in record(name)["rows"].items():
        work, seconds, gib = row.get("work", title), row["seconds"], row.get("peak_bytes")
        ratio = [b / a for a, b in zip(seconds["jssl"], seconds["peer"], strict=True)]
        mine, other = (statistics.median(seconds[side]) for side in ("jssl", "peer"))
        versions = ", ".join(f"{package} {version}" for package, version in row["versions"].items())
        memory = f"{gib['jssl'] / 2**30:.2f} / {gib['peer'] / 2**30:.2f}" if gib else ""
        lines.append((work, row["peer"], f"{mine:.3f}", f"{other:.3f}",
                      f"{statistics.median(ratio):.2f} ({min(ratio):.2f} to {max(ratio):.2f})",
                      memory, versions))  # fmt: skip
    head = ("work", "peer", "jssl, s", "peer, s", "peer / jssl", "peak GiB, jssl / peer",
            "versions")  # fmt: skip
    return table(head, lines)


def methods():
    """Times of each method's step, and of the passes that it cannot do without."""
    lines = []
    for name, row in record("methods")["rows"].items():
        step, inputs = (statistics.median(row[part]) for part in ("step", "inputs"))
        passes = sum(count * statistics.median(times) for count, _, times in row["passes"])
        parts = ", ".join(f"{count} x {part}" for count, part, _ in row["passes"])
        lines.append((name, f"{row['batch'] / step:.1f}", f"{step:.3f}", f"{inputs:.3f}",
                      f"{passes:.3f}", f"{step / (inputs + passes):.2f}", parts))  # fmt: skip
    head = ("method", "images/s", "step, s", "inputs, s", "passes, s", "step / (inputs + passes)",
            "passes")  # fmt: skip
    return table(head, lines)


def start():
    """Seconds from the process to the end of the first step, by parts."""
    result, lines = record("start"), []
    parts = list(result["rounds"]["cold"][0])
    for kind, rounds in result["rounds"].items():
        seconds = [statistics.median(row[part] for row in rounds) for part in parts]
        total = statistics.median(sum(row.values()) for row in rounds)
        lines.append((kind, *(f"{s:.1f}" for s in seconds), f"{total:.1f}"))
    head = ("compilation cache", *(f"{part}, s" for part in parts), "all, s")
    help_seconds = f"`jssl --help` takes {result['help_cpu_seconds']:.2f} s of CPU"
    note = f"Medians of {len(rounds)} runs; {help_seconds}; jax {result['versions']['jax']}."
    return f"{table(head, lines)}\n{note}\n"


PEERS = ("conv", "data", "embed", "knn", "steps", "vit")
TABLES = {
    **{name: functools.partial(turns, name) for name in PEERS},
    "lightly": lightly,
    "kmeans": kmeans,
    "logistic": logistic,
    "decode": decode,
    "bytes": step_bytes,
    "device": device,
    "methods": methods,
    "start": start,
}


def page(old):
    """The page with its tables made anew."""
    for name, text in TABLES.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        if begin in old:
            before, rest = old.split(begin)
            made = text() if (RECORDS / f"{name}.json").exists() else "Not run yet.\n"
            old = f"{before}{begin}\n{made}{end}{rest.split(end)[1]}"
    return old
