"""`jssl neighbors`: exact cosine neighbours and planted near duplicates."""

import csv
import shutil

import numpy as np
import pytest
from gallery_page import Page
from helpers import small_config, stored_run
from PIL import Image

import jssl
from jssl.data import photos
from jssl.errors import UserError
from jssl.evaluate import duplicate_groups, nearest_rows
from jssl.main import main

RNG = np.random.default_rng(0)
BANK = RNG.normal(size=(700, 24)).astype(np.float32)


@pytest.mark.parametrize("chunk", [1, 50_000, 2**26])
def test_neighbors_are_exact_whatever_the_block(monkeypatch, chunk):
    monkeypatch.setattr("jssl.evaluate.neighbors.CHUNK_BYTES", chunk)
    queries = np.concatenate([BANK[:5] * 3, RNG.normal(size=(30, 24))])
    rows, similarity = nearest_rows(BANK, queries, 7)
    cosine = np.float64(queries) @ BANK.T / np.linalg.norm(BANK, axis=1)
    cosine /= np.linalg.norm(queries, axis=1, keepdims=True)
    np.testing.assert_array_equal(rows, np.argsort(-cosine, axis=1)[:, :7])
    np.testing.assert_allclose(similarity, -np.sort(-cosine, axis=1)[:, :7], atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 50_000, 2**26])
def test_planted_duplicates_are_all_found_and_nothing_else(monkeypatch, chunk):
    monkeypatch.setattr("jssl.evaluate.neighbors.CHUNK_BYTES", chunk)
    copies = BANK[[3, 3, 100, 699]] * np.float32([[1], [2], [0.5], [7]])
    copies += 0.01 * RNG.normal(size=copies.shape) * np.linalg.norm(copies, axis=1)[:, None] / 24
    groups, largest = duplicate_groups(np.concatenate([BANK, copies]), 0.99)
    assert [group.tolist() for group in groups] == [[3, 700, 701], [100, 702], [699, 703]]
    unit = np.float64(BANK) / np.linalg.norm(BANK, axis=1, keepdims=True)
    cosine = unit @ unit.T - 2 * np.eye(700)
    alone = np.setdiff1d(np.arange(700), [3, 100, 699])
    assert (largest[alone] < 0.99).all() and (largest[[3, 100, 699, 703]] > 0.99).all()
    np.testing.assert_array_less(cosine.max(axis=1)[alone] - 1e-6, largest[alone])


def test_similar_pairs_are_chained_and_zeros_are_alone():
    angles = np.radians([0, 5, 10, 90])
    x = np.concatenate([np.stack([np.cos(angles), np.sin(angles)], axis=1), np.zeros((2, 2))])
    groups, _ = duplicate_groups(x, np.cos(np.radians(6)))
    assert [group.tolist() for group in groups] == [[0, 1, 2]]
    assert duplicate_groups(x, np.cos(np.radians(4)))[0] == []


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "byol"
    stored_run(small_config("byol", launch="jit"), folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve photographs and two planted copies: the same bytes, and another kind of file."""
    root = tmp_path_factory.mktemp("pictures")
    for i in range(12):
        path = root / f"{i:02}.png"
        Image.fromarray(photos.read(i)[: 100 + i, : 100 + i]).save(path)
    (root / "deep").mkdir()
    shutil.copy(root / "03.png", root / "deep" / "copy.png")
    Image.open(root / "05.png").save(root / "deep" / "other.bmp")
    return root


def neighbors(run, folder, output, *flags):
    main(["neighbors", f"--workdir={run}", f"--data={folder}", f"--output={output}", *flags])
    with open(output, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_planted_copies_of_pictures_are_groups(run, folder, tmp_path, capsys):
    (folder / "broken.jpg").write_text("no picture")
    rows = neighbors(run, folder, tmp_path / "g.csv", "--near-duplicates=1")
    (folder / "broken.jpg").unlink()
    said = capsys.readouterr().out
    assert "1 of 15 pictures could not be read" in said and "they are left out" in said
    assert "groups of near duplicates: 2, with 4 of 14 pictures" in said
    names = [(row["group"], row["path"].removeprefix(f"{folder}/")) for row in rows]
    assert names == [("1", "03.png"), ("1", "deep/copy.png"),
                     ("2", "05.png"), ("2", "deep/other.bmp")]  # fmt: skip
    assert all(abs(float(row["similarity"]) - 1) < 1e-5 for row in rows)


def test_neighbors_of_a_query(run, folder, tmp_path):
    query = folder / "03.png"
    rows = neighbors(run, folder, tmp_path / "n.csv", f"--query={query}", "--k=4")
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    assert {row["query"] for row in rows} == {str(query)}
    assert rows[0]["path"] == str(folder / "deep" / "copy.png")  # and not the query itself
    paths = [str(path) for path in sorted(folder.rglob("*.*")) if path != query]
    features = jssl.Encoder(run)([query, *paths])
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosine = unit[1:] @ unit[0]
    similarity = [float(row["similarity"]) for row in rows]
    np.testing.assert_allclose(similarity, -np.sort(-cosine)[:4], atol=1e-5)
    own = [cosine[paths.index(row["path"])] for row in rows]  # the copies of 05 are equal
    np.testing.assert_allclose(similarity, own, atol=1e-5)
    assert len({row["path"] for row in rows}) == 4
    # A query from elsewhere, and more neighbours than there are pictures.
    outside = str(shutil.copy(query, tmp_path / "outside.png"))
    rows = neighbors(run, folder, tmp_path / "m.csv", "--query", outside, "--k=99")
    assert len(rows) == 14 and {rows[0]["path"], rows[1]["path"]} == {
        str(query), str(folder / "deep" / "copy.png")}  # fmt: skip


def test_the_gallery_shows_the_table(run, folder, tmp_path, capsys):
    query = folder / "02.png"
    table = neighbors(run, folder, tmp_path / "n.csv", f"--query={query}", "--k=3")
    assert f"{tmp_path / 'n.html'}: a gallery of 1 of 1 rows." in capsys.readouterr().out
    page = Page((tmp_path / "n.html").read_text(encoding="utf-8"))
    assert page.headings == [str(query)] and page.captions[0] == ["query", str(query)]
    assert page.captions[1:] == [
        [f"{row['rank']}: {float(row['similarity']):.4f}", row["path"]] for row in table
    ]
    assert len(page.pictures) == 4
    gallery = tmp_path / "groups.png"
    neighbors(run, folder, tmp_path / "d.csv", "--near-duplicates=1", f"--gallery={gallery}")
    with Image.open(gallery) as sheet:
        assert sheet.size == (3 * 168 + 8, 30 + 2 * (196 + 14 + 8))  # two groups of two
    assert not (tmp_path / "d.html").exists()


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        ([], "Found neither of --query and --near-duplicates"),
        (["--query=a.jpg", "--near-duplicates=0.9"], "Found both of --query and"),
        (["--query=a.jpg"], "'a.jpg' does not exist"),
        (["--query=a.jpg", "--k=0"], "--k expects 1 or more, found 0"),
        (["--near-duplicates=98"], "expects a cosine above -1 and at most 1, found 98.0"),
        (["--near-duplicates=0.9", "--data=no"], "--data expects a folder of pictures, found 'no'"),
        (["--near-duplicates=0.9", "--output=n.txt"], "must end with .csv"),
        (["--query=a.jpg", "--gallery=g.pdf"], "--gallery must end with .html or .png, found 'g.p"),
        (["--query=a.jpg", "--gallery=no/g.png"], "Type another --gallery."),
        (["--near_duplicates=0.9"], "did you mean 'near-duplicates'?"),
    ],
)
def test_mistakes_are_refused_before_it_computes(
    run, folder, tmp_path, monkeypatch, flags, refused
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jssl.run.build.load_encoder", lambda *a, **k: pytest.fail("computed"))
    with pytest.raises(UserError) as error:
        main(["neighbors", f"--workdir={run}", f"--data={folder}", "--output=n.csv", *flags])
    assert refused in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_query_that_cannot_be_read_is_refused(run, folder, tmp_path, capsys):
    (tmp_path / "q.png").write_text("no picture")
    with pytest.raises(UserError, match="None of the 1 pictures can be read, the first: .*q.png"):
        neighbors(run, folder, tmp_path / "n.csv", f"--query={tmp_path / 'q.png'}")
    with pytest.raises(UserError, match="leave those out that are named above"):
        neighbors(run, folder, tmp_path / "n.csv", "--query", str(tmp_path / "q.png"),
                  str(folder / "03.png"))  # fmt: skip
    assert "q.png'" in capsys.readouterr().out and not (tmp_path / "n.csv").exists()
