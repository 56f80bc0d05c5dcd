"""Oxford and Paris: ground truth worked out by hand, malicious pickles."""

import os
import pickle

import numpy as np
import pytest

from jssl.data.landmarks import CORRUPT, read_landmarks
from jssl.data.plain_pickle import read_plain_pickle
from jssl.errors import UserError

NAMES = [f"all_souls_{i:06d}" for i in range(6)]


def lay_out(root):
    """Writes empty images. The second query has two positives that are missing."""
    for folder, names in {
        "oxford5k/jpg": NAMES,
        "paris6k/jpg/paris/louvre": ["paris_louvre_000136", "paris_louvre_000001"],
        "paris6k/jpg/paris/pantheon": ["paris_pantheon_000002", "paris_pantheon_000003"],
    }.items():
        (root / folder).mkdir(parents=True)
        for name in names:
            (root / folder / f"{name}.jpg").write_bytes(b"")
    files = {
        "oxford5k/gt/all_souls_1_query.txt": "oxc1_all_souls_000003 136.5 34.1 648.5 955.7\n",
        "oxford5k/gt/all_souls_1_good.txt": "all_souls_000003\nall_souls_000005\n",
        "oxford5k/gt/all_souls_1_ok.txt": "all_souls_000001\n",
        "oxford5k/gt/all_souls_1_junk.txt": "all_souls_000000\n",
        "paris6k/gt/louvre_1_query.txt": "paris_louvre_000001 0 1 20 30\n",
        "paris6k/gt/louvre_1_good.txt": "paris_louvre_000136\n",
        "paris6k/gt/louvre_1_ok.txt": "paris_pantheon_000003\nparis_pompidou_000467\n",
        "paris6k/gt/louvre_1_junk.txt": "",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def root(tmp_path):
    return lay_out(tmp_path)


def test_original_ground_truth(root):
    result = read_landmarks("oxford5k", root)
    assert [p.stem for p in result.images] == NAMES
    (query,) = result.queries
    assert query.path.name == "all_souls_000003.jpg"
    assert query.roi == (136.5, 34.1, 648.5, 955.7)
    assert result.lists == {"positive": [[1, 3, 5]], "junk": [[0]]} and result.num_positive == [3]
    # Whitening is learnt on Paris, without its corrupt image.
    assert len(result.other_images) == 3 and result.corrupt == ()


def test_corrupt_images_are_left_out_but_counted_as_positives(root):
    result = read_landmarks("paris6k", root)
    assert [p.stem[6:] for p in result.images] == [
        "louvre_000001", "pantheon_000002", "pantheon_000003"
    ]  # fmt: skip
    assert result.corrupt == ("paris_louvre_000136",) and len(CORRUPT) == 20
    assert result.lists["positive"] == [[2]] and result.num_positive == [3]
    assert result.fingerprint() != read_landmarks("oxford5k", root).fingerprint()


def truth(**changes):
    entry = {"bbx": [1.0, 2.0, 30.0, 40.0], "easy": np.array([0, 2]), "hard": [1]}
    entry["junk"] = np.array([], int)
    entry |= changes
    return {"imlist": NAMES[:4], "qimlist": [NAMES[5]], "gnd": [entry], "_ids": np.float64(3)}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_revisited_ground_truth_of_any_pickle_protocol(root, protocol):
    path = root / "oxford5k" / "gnd_roxford5k.pkl"
    path.write_bytes(pickle.dumps(truth(), protocol=protocol))
    result = read_landmarks("roxford5k", root)
    assert [p.stem for p in result.images] == NAMES[:4]  # the query is not in the database
    assert result.queries[0].path.stem == NAMES[5]
    assert result.queries[0].roi == (1.0, 2.0, 30.0, 40.0)
    assert result.lists == {"easy": [[0, 2]], "hard": [[1]], "junk": [[]]}
    assert result.num_positive is None


class Malicious:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "call",
    [
        (os.system, ("touch {}",)),
        (eval, ("open('{}', 'w')",)),
        (np.ndarray, ((2,), np.dtype("O"))),
        (getattr, ("{}", "upper")),
    ],
    ids=["system", "eval", "objects", "getattr"],
)
@pytest.mark.parametrize("protocol", [0, 4])
def test_malicious_pickles_are_refused_without_running(root, call, protocol):
    ran = root / "ran"
    function, values = call
    values = tuple(v.format(ran) if isinstance(v, str) else v for v in values)
    path = root / "oxford5k" / "gnd_roxford5k.pkl"
    path.write_bytes(pickle.dumps(truth(junk=Malicious(function, values)), protocol=protocol))
    with pytest.raises(UserError, match="not a pickle of plain values: found"):
        read_landmarks("roxford5k", root)
    assert not ran.exists()
    pickle.loads(pickle.dumps(Malicious(os.mkdir, (str(ran),))))  # what would have happened
    assert ran.exists()


def test_arrays_of_objects_and_damage_are_refused(tmp_path):
    path = tmp_path / "x.pkl"
    for content in (pickle.dumps(np.array([[], None], object)), pickle.dumps([1, 2])[:-4], b"\x80"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a pickle of plain values"):
            read_plain_pickle(path)
    values = {"a": (1.5, [np.arange(6).reshape(2, 3), np.array(["x"])]), "b": {1: b"\xff", 2: None}}
    path.write_bytes(pickle.dumps(values, protocol=2))
    result = read_plain_pickle(path)
    np.testing.assert_array_equal(result["a"][1][0], values["a"][1][0])
    assert result["b"] == values["b"] and result["a"][1][1].tolist() == ["x"]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("oxford", None, "did you mean 'roxford5k'|did you mean 'oxford5k'"),
        ("roxford5k", None, r"gnd_roxford5k.pkl of http.*--source=roxford5k --data_dir=DIR"),
        ("oxford5k", "paris6k/jpg", "paris6k/jpg' with|no .jpg images.*paris_1-v1.tgz"),
        ("oxford5k", "oxford5k/gt/all_souls_1_junk.txt", "all_souls_1_junk.txt'"),
        ("oxford5k", "oxford5k/jpg/all_souls_000005.jpg", "1 images.*'all_souls_000005'"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_missing_files_are_named(root, name, change, message):
    if change:
        (root / change).rename(root / "away")
    with pytest.raises(UserError, match=message):
        read_landmarks(name, root)
