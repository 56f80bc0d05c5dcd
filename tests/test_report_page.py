"""The report of a run: one page, whole, offline, and safe with any names in it."""

import contextlib
import html
import html.parser
import json
import sys
import types

import jax
import numpy as np
import pytest
from helpers import shallow_config, small_config, stored_run, tiles
from PIL import Image

from jssl import main, report
from jssl.errors import UserError
from jssl.models import vit
from jssl.report import document, facts, heat, make
from jssl.run import build
from jssl.run.judge import train_and_judge

EVIL = "<script>alert(1)"
SECTIONS = ("Numbers", "Curves", "Views that the network sees", "Neighbours", "Map of the features",
            "Activation of the last map", "Confusion matrix", "Settings",
            "Software and hardware")  # fmt: skip
VOID = {"meta", "img", "br", "link"}
NUMBER = {"top1": 0.25, "correct": 3, "count": 12, "ci95": [0.1, 0.5], "feature": "untrained <b>",
          "dim": 4, "protocol": "untrained <b> (4-d), k=3, toy"}  # fmt: skip


class Page(html.parser.HTMLParser):
    """Checks that every tag is closed in its place; keeps the headings and what is loaded."""

    def __init__(self, text):
        super().__init__()
        self.open, self.loaded, self.headings = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert tag not in ("script", "link", "iframe", "object", "b")
        self.loaded += [v for k, v in attributes if k in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open[-1:] in (["h1"], ["h2"]):
            self.headings.append(text)


def write_pictures(folder, splits):
    """A folder with two classes, one of them with a name that a page must not obey."""
    images = iter(tiles(sum(splits.values()) * 2)["image"])
    for split, count in splits.items():
        for name in (EVIL, "b"):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(next(images)).save(folder / split / name / f"{i}.png")
    return folder


def config_of(pictures):
    config = shallow_config("simclr", launch="jit", max_steps=2)
    config.data.update({"name": "folder", "data_dir": str(pictures)})
    config.final.enabled = False
    config.report.enabled = True
    config.log.tensorboard = False
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("report")
    folder = place / f"run {EVIL}"
    train_and_judge(config_of(write_pictures(place / "data", {"train": 16, "test": 6})), folder)
    rows = [{"probe": "kNN", "protocol": "k=3", "top1": {"untrained": 0.25},
             "numbers": {"untrained": NUMBER}}]  # fmt: skip
    (folder / "result.json").write_text(json.dumps({"name": "simclr & co", "rows": rows,
                                                    "minutes": 1.5}))  # fmt: skip
    (folder / "pictures").mkdir()
    for step in (2, 10):
        Image.new("RGB", (8, 8), (step, 0, 0)).save(folder / "pictures" / f"masks-{step}.png")
    return folder


@pytest.fixture(scope="module")
def text(run):
    """The page that is made of the files of the run, after it has ended."""
    return report.write_report(run).read_text()


@contextlib.contextmanager
def changed(path, text):
    """A file with other content."""
    old = path.read_text()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_text(old)


def test_the_page_is_there_when_the_run_ends_and_has_every_section(run):
    text = (run / "report.html").read_text()  # of the run itself
    page = Page(text)
    assert page.headings[0] == run.name
    assert [name for name in SECTIONS if name not in page.headings] == []
    assert "<td>finished</td>" in text and "The table at the end is switched off" in text
    kept = json.loads((run / "report_pictures.json").read_text())
    assert kept["step"] == 2 and kept["notes"] == [] and len(kept["sections"]) == 5


def test_the_page_loads_nothing_and_is_small(run, text):
    assert len(text.encode()) < 5_000_000
    loaded = Page(text).loaded
    assert len(loaded) > 50 and all(source.startswith("data:image/") for source in loaded)
    assert "://" not in text.replace(html.escape(json.loads(
        (run / "config.json").read_text())["data"]["data_dir"]), "")  # fmt: skip


def test_names_are_text(text):
    Page(text)  # refuses <script> and <b>
    assert EVIL not in text and html.escape(EVIL) in text
    assert "simclr &amp; co" in text and "untrained &lt;b&gt; (4-d)" in text


def test_numbers_and_their_protocol(text):
    assert "<li>k=3, toy</li>" in text and '<td class="number">25.0</td>' in text
    assert "1.5 minutes" in text and "the point at 0 is the network before the first update" in text
    assert "masks, step 10" in text and "masks, step 2<" not in text


def test_damaged_files_are_named(run):
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    with changed(metrics, "\n".join([lines[0], "{", '{"step": "x"}', *lines[1:], '{"step'])):
        text = report.write_report(run).read_text()
    assert "metrics.jsonl: lines 2, 3 left out, as damaged." in text
    assert len(facts.read_metrics(metrics, [])) == len(lines)
    with changed(run / "result.json", '{"rows": [{"probe": 1}, 3]}'):
        assert facts.read_facts(run).warnings == ["result.json has a row that is no result."]
    for damaged in ("[", '{"step": "x"}', '{"sections": 3}', '{"step": 1, "sections": [3, {}]}'):
        with changed(run / "report_pictures.json", damaged):
            text = report.write_report(run).read_text()
        assert text.count("report_pictures.json is damaged") == 1, damaged
        assert "Neighbours" not in Page(text).headings


def test_the_same_files_make_the_same_page(run, text):
    assert report.write_report(run).read_text() == text


def test_a_page_that_is_too_large_says_what_it_leaves_out(run, text, monkeypatch):
    monkeypatch.setattr(document, "MOST_BYTES", len(text.encode()) - 1000)
    shorter = report.write_report(run).read_text()
    assert (
        len(shorter) < len(text) and shorter.count("Left out, as the page would be above 5 MB") == 1
    )


def test_a_run_without_a_test_split(tmp_path, capsys):
    config = config_of(write_pictures(tmp_path / "data", {"": 10}))
    config.batch_size = 8
    stored_run(config, tmp_path / "run")
    main.main(["report", f"--workdir={tmp_path / 'run'}"])
    assert "report.html" in capsys.readouterr().out
    text = (tmp_path / "run" / "report.html").read_text()
    headings = Page(text).headings
    assert "Neighbours" in headings and "Confusion matrix" not in headings
    assert "12 training pictures, each followed by the 6 nearest of 20 training" in text
    assert "No number has been logged" in text
    # Its data are gone: the page is still written, and says why it has no pictures.
    (tmp_path / "data").rename(tmp_path / "moved")
    (tmp_path / "run" / "report_pictures.json").unlink()
    main.main(["report", f"--workdir={tmp_path / 'run'}"])
    text = (tmp_path / "run" / "report.html").read_text()
    assert "pictures were not made" in text and "Neighbours" not in Page(text).headings


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match="is not the workdir of a run"):
        main.main(["report", f"--workdir={tmp_path}"])
    with pytest.raises(UserError, match="type one of the two"):
        main.main(["report", f"--workdir={tmp_path}", "--records=r"])


def test_a_section_that_fails_leaves_the_others(monkeypatch):
    def fails(*_):
        raise RuntimeError("no map today")

    monkeypatch.setattr(make, "network_of", lambda *_: type("N", (), {"tested": False}))
    monkeypatch.setattr(make, "see", lambda *_: None)
    for name in ("views", "neighbours", "heat_maps", "confusion"):
        monkeypatch.setattr(make, name, lambda *_, name=name: {"title": name})
    monkeypatch.setattr(make, "feature_map", fails)
    parts = type("P", (), {"probe_source": None})
    sections, notes = make.network_sections(parts, None, None)
    assert [s["title"] for s in sections] == ["views", "neighbours", "heat_maps", "confusion"]
    assert notes == ["The map of the features could not be made: RuntimeError: no map today"]


def test_the_report_takes_a_small_share_of_the_time(monkeypatch, capsys):
    clock, written = [0.0], []

    def write(folder, **_):
        written.append(clock[0])
        clock[0] += 2  # seconds
        if len(written) == 2:
            raise RuntimeError("a bad day")

    monkeypatch.setattr(document, "write_report", write)
    monkeypatch.setattr(document.time, "monotonic", lambda: clock[0])
    reporter = report.Reporter("run", enabled=True)
    for clock[0] in (0.0, 50.0, 101.0, 103.0, 150.0):
        reporter.update()
    assert written == [0.0, 103.0]
    assert "WARNING the report was not written (RuntimeError: a bad day)" in capsys.readouterr().out
    reporter.update(now=True)
    report.Reporter("run", enabled=False).update(now=True)
    assert len(written) == 3


def test_the_map_of_a_network_is_its_last():
    def embed(state, images):
        maps = {"z": images * 1.0, "a": images * 2.0, "last_sum": images, "projection": state}
        return state, maps

    assert heat.last_map(embed, np.zeros((1, 2)), np.zeros((1, 4, 4, 3))) == "a"  # not "z"
    assert heat.last_map(lambda s, x: (s, {"projection": s}), np.zeros(2), np.zeros(2)) == ""


def test_the_attention_is_that_of_the_network(monkeypatch):
    """BEiT's, with a relative bias and no bias of the keys, against what its block computes."""
    config = small_config("beit", launch="jit")
    method, _ = build.make_method(config, axis_name=None)
    state = jax.jit(lambda: build.first_state(config, method, 2))()
    rng = np.random.default_rng(0)
    noise = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), state.params)
    state = state.replace(params=noise)
    images = tiles(2)["image"]
    found = np.asarray(heat.class_attention(config, state, images))

    seen, attend = [], vit.attention

    def recorded(qkv, bias):
        seen.append((qkv[:, :, 0], qkv[:, :, 1], bias))
        return attend(qkv, bias)

    monkeypatch.setattr(vit, "attention", recorded)

    @jax.jit
    def of_the_last_block(state, images):
        method.embed(state, images)
        return seen[-1]

    q, k, bias = (np.asarray(x, np.float64) for x in of_the_last_block(state, images))
    logits = np.einsum("bqhd,bkhd->bhqk", q, k)[:, :, 0] / np.sqrt(q.shape[-1]) + bias[:, :, 0]
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    np.testing.assert_allclose(found, weights / weights.sum(axis=-1, keepdims=True), atol=1e-4)
    assert np.ptp(found) > 0.1  # not the same everywhere


def test_the_map_by_umap(run, monkeypatch):
    """With a stand-in: umap-learn compiles for half a minute."""
    asked = {}

    class Umap:
        def __init__(self, **options):
            asked.update(options)

        def fit_transform(self, features):
            return features[:, :2]

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Umap))
    main.main(["report", f"--workdir={run}", "--map=umap"])
    assert "pictures by UMAP" in (run / "report.html").read_text()
    assert (asked["metric"], asked["random_state"]) == ("cosine", 0)
    assert json.loads((run / "config.json").read_text())["report"]["map"] == "pca"
    monkeypatch.setitem(sys.modules, "umap", None)
    for words in (["--map=umap", f"--workdir={run}"], ["--map=umpa", f"--workdir={run}"]):
        with pytest.raises(UserError, match="jssl\\[umap\\]|--map=umpa: did you mean"):
            main.main(["report", *words])
    config = config_of("nowhere")
    config.report.map = "umap"
    with pytest.raises(UserError, match="jssl\\[umap\\]"):
        train_and_judge(config, run.with_name("never"))
    assert not run.with_name("never").exists()
