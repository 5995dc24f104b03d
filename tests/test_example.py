"""The example that `isogram data example` writes, from a small set of drawings made here."""

import csv

import pytest
from PIL import Image
from typer.testing import CliRunner

from isogram.cli import app
from isogram.config_file import read_config
from isogram.data import example
from isogram.data.pictures import emoji
from isogram.data.pictures.emoji import Emoji
from isogram.errors import ConfigError, DataError


def square(height):
    icons = {"icons": {"square": {"body": f'<rect width="8" height="{height}" fill="red"/>'}}, "width": 8, "height": 8}
    return emoji._drawing(icons, {"61": "square"}, "a")


@pytest.fixture
def drawn(monkeypatch):
    """Drawings that need no download, and fewer of them."""
    found = [Emoji(chr(i), f"thing {i}", ("it", f"thing {i}"), (square(1 + i % 8),)) for i in range(40)]
    monkeypatch.setattr(example, "read_emoji", lambda: found)
    monkeypatch.setattr(example, "ANCHORS", 10)
    monkeypatch.setattr(example, "ROWS", 20)
    return found


def test_it_holds_what_a_run_needs_and_tells_no_pair(drawn, tmp_path):
    told = []
    path = example.write_example(tmp_path / "my", lambda *progress: told.append(progress))
    config = read_config(path)
    assert config.data == "silos" and {node.name for node in config.silos.nodes} == {"gallery", "library"}
    assert all(node.data.exists() for node in config.silos.nodes)
    photos = sorted((tmp_path / "my" / "photos").iterdir())
    assert [photo.name for photo in photos] == [f"{i:04d}.png" for i in range(20)]
    with Image.open(photos[0]) as image:
        assert image.size == (example.SIDE, example.SIDE)
    texts, anchors = rows_of(tmp_path / "my" / "texts.csv"), rows_of(tmp_path / "my" / "anchors" / "anchors.csv")
    assert len(texts) == 20 and len(anchors) == 10
    assert all((tmp_path / "my" / "anchors" / row["picture"]).is_file() and row["licence"] for row in anchors)
    assert not {row["text"] for row in texts} & {row["text"] for row in anchors}, "an anchor is nobody's private row"
    assert told[-1] == ("pictures drawn", 30, 30)
    assert not (tmp_path / "my.part").exists()


def rows_of(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_a_folder_beside_it_is_left_alone(drawn, tmp_path):
    (tmp_path / "my.part").mkdir()
    (tmp_path / "my.part" / "thesis.txt").write_text("dear")
    example.write_example(tmp_path / "my")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my", "my.part"]
    assert (tmp_path / "my.part" / "thesis.txt").read_text() == "dear"


def test_a_folder_with_something_in_it_is_left_alone(drawn, tmp_path):
    (tmp_path / "mine.txt").write_text("dear")
    with pytest.raises(ConfigError, match="not empty; name a new folder"):
        example.write_example(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_too_few_drawings_and_an_interruption_leave_nothing(drawn, monkeypatch, tmp_path):
    with monkeypatch.context() as fewer:
        fewer.setattr(example, "read_emoji", lambda: drawn[:20])
        with pytest.raises(DataError, match="20 emoji"):
            example.write_example(tmp_path / "my")
    assert not (tmp_path / "my").exists()

    def stop(*progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        example.write_example(tmp_path / "my", stop)
    assert not (tmp_path / "my").exists()
    result = CliRunner().invoke(app, ["data", "example", str(tmp_path / "my"), "--quiet"])
    assert result.exit_code == 0 and (tmp_path / "my" / example.CONFIG).is_file()
