"""Lists of sums that came with a checkpoint of unknown origin."""

import os

from jssl.run import checksums


def test_checksums_of_other_files_are_not_followed(tmp_path):
    """/dev/zero would be read for ever, a pipe waited for."""
    place = tmp_path / "3"
    (place / "state").mkdir(parents=True)
    (place / "state" / "a").write_text("abc")
    (tmp_path / "secret").write_text("abc")
    os.mkfifo(place / "state" / "pipe")
    checksums.write_sums(place)
    whole = (place / checksums.SUMS).read_text()
    abc = whole.split()[0]
    names = ("/dev/zero", "../secret", f"{tmp_path}/secret", "state/pipe", "state/../../secret")
    for name in names:
        (place / checksums.SUMS).write_text(f"{whole}{abc}  {name}\n")
        said = [f"{name} cannot be read: it is not a file of the checkpoint"]
        assert checksums.damage(place) == said
    (place / checksums.SUMS).write_text(whole)
    assert checksums.damage(place) == []


def test_a_huge_list_of_checksums_is_not_read(tmp_path):
    with open(tmp_path / checksums.SUMS, "wb") as file:
        file.truncate(2**35)
    said = f"{checksums.SUMS} has 34,359,738,368 bytes; expected at most 268,435,456"
    assert checksums.damage(tmp_path) == [said]
