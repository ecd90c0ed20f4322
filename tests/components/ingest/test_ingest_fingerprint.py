import pytest

from components.errors import RetrainError
from components.ingest.fingerprint import fingerprint


def write(folder, **files):
    folder.mkdir()
    paths = [folder / name for name in files]
    for path, text in zip(paths, files.values(), strict=True):
        path.write_text(text)
    return [str(path) for path in paths]


def test_changes_with_names_and_content_alone(tmp_path):
    files = write(tmp_path / "a", x="1", y="2")
    same = fingerprint(files)
    assert fingerprint(reversed(files)) == same == fingerprint(write(tmp_path / "b", x="1", y="2"))
    assert len(same) == 32
    others = [
        {"x": "1", "y": "3"},
        {"x": "1", "z": "2"},
        {"x": "12", "y": ""},
        {"x": "1"},
        {"x": "2", "y": "1"},
    ]
    prints = {fingerprint(write(tmp_path / f"c{i}", **other)) for i, other in enumerate(others)}
    assert len(prints | {same}) == 6


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(RetrainError, match=r"nothing\.csv: cannot be read"):
        fingerprint([str(tmp_path / "nothing.csv")])
