import os
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from anchor_sets import edit, put, read_rows, write_anchor_set, write_rows
from PIL import Image

from isogram.config import ModalityConfig
from isogram.data.anchor_set import fill, fill_anchor_set, hash_anchor_set, make_generator, read_anchor_set
from isogram.data.anchor_set.generators import GROUP, Made
from isogram.errors import ConfigError, DataError, StorageError

speaks = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


@pytest.fixture
def folder(tmp_path):
    return write_anchor_set(tmp_path / "set", columns=("photo", "call", "name"))


def filled(folder, modality, name, out=None, *, quality=0.5, seed=0, **options):
    made = make_generator(name, options)
    return fill_anchor_set(folder, modality, name, made, out=out, quality=quality, seed=seed)


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_template_fills_what_is_missing_and_nothing_else(folder, tmp_path):
    edit(folder, put(2, name="", quality="0.9"))
    edit(folder, put(4, name=""))
    before, out = tree(folder), tmp_path / "deep" / "new"
    done = filled(folder, "name", "template", out, quality=0.25, template="the sound of {concept}")
    assert (done.folder, done.filled, done.left) == (out, ("c02", "c04"), ())
    assert tree(folder) == before
    old, new = read_rows(folder / "anchors.csv"), read_rows(out / "anchors.csv")
    assert {name: content for name, content in tree(out).items() if name != "anchors.csv"} == {
        name: content for name, content in before.items() if name != "anchors.csv"
    }
    for row in (2, 4):
        old[row] |= {"name": f"the sound of c{row:02}"}
    assert [{key: row[key] for key in old[0]} for row in new] == old
    assert [row["provenance:name"] for row in new] == ["", "", "synthetic: template", "", "synthetic: template", ""]
    assert [row["quality:name"] for row in new] == ["", "", "0.25", "", "0.25", ""]
    anchors = read_anchor_set(out, {"name": ModalityConfig(kind="text"), "photo": ModalityConfig(kind="image")})
    assert anchors.items["name"].quality.tolist() == [1, 1, 0.25, 1, 0.25, 1]
    np.testing.assert_allclose(anchors.items["photo"].quality, [1, 1, 0.9, 1, 1, 1])
    assert sorted(path.name for path in out.parent.iterdir()) == ["new"]


def test_a_template_may_use_another_column_and_leaves_out_who_has_none(folder):
    edit(folder, put(1, name=""))
    done = filled(folder, "caption", "template", template="{name}, as {concept}")
    assert done.left == ("c01",) and len(done.filled) == 5
    rows = read_rows(folder / "anchors.csv")
    assert [row["caption"] for row in rows] == [row["name"] and f"{row['name']}, as {row['concept']}" for row in rows]


def test_a_variant_comes_of_another_column_with_its_licence(folder, tmp_path):
    edit(folder, put(3, scan="photos/03.png", licence__photo="CC-BY"))
    edit(folder, put(5, photo=""))
    out = tmp_path / "new"
    done = filled(folder, "scan", "augment", out, source="photo")
    assert done.filled == ("c00", "c01", "c02", "c04") and done.left == ("c05",)
    rows = read_rows(out / "anchors.csv")
    assert rows[3]["scan"] == "photos/03.png" and rows[3]["quality:scan"] == "" and rows[5]["scan"] == ""
    for row in (0, 1, 2, 4):
        with Image.open(out / rows[row]["scan"]) as changed, Image.open(folder / rows[row]["photo"]) as was:
            assert changed.format == "PNG" and min(changed.size) >= 48
            assert changed.convert("RGB").resize((8, 8)).tobytes() != was.resize((8, 8)).tobytes()
    assert [row["licence:scan"] for row in rows] == ["CC0", "CC0", "CC0", "", "CC0", ""]


def test_a_recording_is_played_at_another_speed(folder):
    filled(folder, "call-2", "augment", source="call")
    lengths = []
    for row in read_rows(folder / "anchors.csv"):
        with wave.open(str(folder / row["call-2"])) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
            lengths.append(file.getnframes() / 8000)
    assert {round(length, 2) for length in lengths} == {0.87, 1.18}  # 100 / 115 and 100 / 85


def test_the_seed_alone_decides_and_other_gaps_do_not_matter(folder, tmp_path):
    one, two, three, four = (tmp_path / name for name in ("1", "2", "3", "4"))
    filled(folder, "scan", "augment", one, source="photo")
    filled(folder, "scan", "augment", two, source="photo")
    filled(folder, "scan", "augment", three, source="photo", seed=1)
    edit(folder, put(0, scan="photos/00.png"))
    filled(folder, "scan", "augment", four, source="photo")
    assert tree(one) == tree(two)
    scans = [[row["scan"] for row in read_rows(out / "anchors.csv")] for out in (one, three, four)]
    assert not set(scans[0]) & set(scans[1]) and scans[0][1:] == scans[2][1:]


@speaks
def test_speech_is_spoken_in_the_voice_that_is_asked_for(folder, tmp_path):
    edit(folder, put(0, word="--help"))
    edit(folder, put(1, word="chien"))
    edit(folder, put(2, word="chien"))
    done = filled(folder, "speech-fr", "espeak", tmp_path / "fr", voice="fr", text="word")
    assert done.filled == ("c00", "c01", "c02")
    filled(folder, "speech-fr", "espeak", tmp_path / "es", voice="es", text="word")
    fr, es = (read_rows(tmp_path / voice / "anchors.csv") for voice in ("fr", "es"))
    content = (tmp_path / "fr" / fr[1]["speech-fr"]).read_bytes()
    assert content == (tmp_path / "fr" / fr[2]["speech-fr"]).read_bytes()
    assert content != (tmp_path / "es" / es[1]["speech-fr"]).read_bytes()
    for row in fr[:3]:
        with wave.open(str(tmp_path / "fr" / row["speech-fr"])) as file:
            sound = np.frombuffer(file.readframes(file.getnframes()), "<i2")
            assert 0.2 < len(sound) / file.getframerate() < 3 and np.abs(sound).max() > 1000
    assert fr[0]["provenance:speech-fr"] == "synthetic: espeak"


@speaks
def test_a_voice_that_is_not_there_is_refused_before_anything_is_said():
    for voice in ("klingonese", "-v", "a b"):
        with pytest.raises(ConfigError, match="has no voice"):
            make_generator("espeak", {"voice": voice})


def test_without_the_program_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="install the package espeak-ng"):
        make_generator("espeak", {})


def test_a_table_gives_texts_or_files(folder, tmp_path):
    write_rows(tmp_path / "captions.csv", [{"concept": "c01", "value": "a dog, seen"}, {"concept": "zz", "value": "x"}])
    done = filled(folder, "caption", "table", tmp_path / "one", file=str(tmp_path / "captions.csv"))
    assert done.filled == ("c01",)
    assert read_rows(tmp_path / "one" / "anchors.csv")[1]["caption"] == "a dog, seen"
    (tmp_path / "drawn").mkdir()
    Image.new("RGB", (9, 9), "red").save(tmp_path / "drawn" / "dog.PNG")
    assert done.unknown == ("zz",) and done.left == ("c00", "c02", "c03", "c04", "c05")
    rows = [{"concept": "c01", "value": "drawn/dog.PNG", "licence": "CC-BY"}]
    write_rows(tmp_path / "drawings.csv", rows)
    edit(folder, put(1, photo=""))
    filled(folder, "photo", "table", tmp_path / "two", file=str(tmp_path / "drawings.csv"))
    row = read_rows(tmp_path / "two" / "anchors.csv")[1]
    assert (tmp_path / "two" / row["photo"]).read_bytes() == (tmp_path / "drawn" / "dog.PNG").read_bytes()
    assert row["licence:photo"] == "CC-BY" and row["provenance:photo"] == "synthetic: table"


def test_a_table_of_files_with_a_missing_one_gives_no_texts(folder, tmp_path):
    shutil.copy(folder / "photos" / "00.png", tmp_path / "0.png")
    rows = [{"concept": "c00", "value": "0.png"}, {"concept": "c01", "value": "1.png"}]
    write_rows(tmp_path / "t.csv", [*rows, rows[0]])
    with pytest.raises(DataError) as caught:
        filled(folder, "drawing", "table", file=str(tmp_path / "t.csv"))
    assert caught.value.problems == (
        f"{tmp_path / 't.csv'}: concepts that stand twice: 'c00' (line 2, line 4); keep one row of each",
        f"{tmp_path / 't.csv'}, column 'value': no such file in the folder: '1.png' (line 3); add it, or leave the "
        "cell empty",
    )


def test_concepts_with_a_real_item_in_every_modality_are_counted(folder, tmp_path):
    edit(folder, put(1, quality__photo="0.5"))
    edit(folder, put(2, name=""))
    assert filled(folder, "name", "template", tmp_path / "1").real == 4
    assert filled(folder, "caption", "template", tmp_path / "2").real == 0
    edit(folder, put(3, caption="seen by a person"))
    assert filled(folder, "caption", "template", tmp_path / "3").real == 1


def test_a_table_carries_no_file_away_from_elsewhere(folder, tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    write_rows(tmp_path / "inner" / "t.csv", [{"concept": "c01", "value": "../secret.png"}])
    edit(folder, put(1, photo=""))
    with pytest.raises(
        DataError, match=r"t\.csv, column 'value': leads out of the folder: '\.\./secret\.png' \(line 2\)"
    ):
        filled(folder, "photo", "table", tmp_path / "out", file=str(tmp_path / "inner" / "t.csv"))
    assert not (tmp_path / "out").exists()


def test_a_copy_carries_no_link_away(folder, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "unnamed.png").symlink_to(tmp_path / "secret.png")
    (folder / "again").symlink_to(folder / "photos")
    edit(folder, put(0, photo="again/00.png"))
    filled(folder, "caption", "template", tmp_path / "out")
    assert not (tmp_path / "out" / "unnamed.png").exists()
    assert (tmp_path / "out" / "again" / "00.png").read_bytes() == (folder / "photos" / "00.png").read_bytes()
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert len(read_anchor_set(tmp_path / "out", {"photo": ModalityConfig(kind="image")}).concepts) == 6


def test_nothing_is_written_out_of_the_folder(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (folder / "synthetic").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="a link that leads out of the folder"):
        filled(folder, "scan", "augment", source="photo")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_parquet_stays_parquet(folder, tmp_path):
    import pandas as pd

    edit(folder, put(2, name=""))
    frame = pd.DataFrame(read_rows(folder / "anchors.csv")).assign(quality=1.0)
    frame.to_parquet(folder / "anchors.parquet")
    (folder / "anchors.csv").unlink()
    filled(folder, "name", "template")
    assert not (folder / "anchors.csv").exists()
    anchors = read_anchor_set(folder, {"name": ModalityConfig(kind="text")})
    assert anchors.items["name"].items[2].text == "a picture of c02"
    assert anchors.items["name"].quality.tolist() == [1, 1, 0.5, 1, 1, 1]


class Breaks:
    """Makes two pictures, then fails."""

    def __init__(self, error):
        self.error, self.made = error, 0

    def __call__(self, wanted):
        self.made += 1
        if self.made == 3:
            raise self.error
        return Made(b"picture", ".png")


@pytest.mark.parametrize("error", [DataError("no"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("in_place", [True, False])
def test_a_generator_that_fails_leaves_everything_as_it_was(folder, tmp_path, error, in_place):
    before = tree(tmp_path)
    with pytest.raises(type(error)):
        fill_anchor_set(folder, "scan", "breaks", Breaks(error), out=None if in_place else tmp_path / "new")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("at", [0, 2, 6])
def test_a_disk_that_fails_leaves_everything_as_it_was(folder, tmp_path, monkeypatch, in_place, at):
    """The sixth write is that of the table."""
    before, written = tree(tmp_path), []

    def failing(path, data):
        written.append(path)
        if len(written) == at + 1:
            raise StorageError("disk full")
        path.write_bytes(data)

    monkeypatch.setattr(fill, "write_atomic", failing)
    with pytest.raises(StorageError):
        filled(folder, "scan", "augment", None if in_place else tmp_path / "new", source="photo")
    assert len(written) == at + 1 and tree(tmp_path) == before and not (tmp_path / "new").exists()


def test_a_killed_process_leaves_the_old_table_or_the_new_one(folder):
    script = f"""
import os
from pathlib import Path
from isogram.data.anchor_set import fill, fill_anchor_set, make_generator
real, done = fill.write_atomic, []
def killed(path, data):
    if path.name == "anchors.csv":
        os._exit(9)
    real(path, data)
fill.write_atomic = killed
fill_anchor_set(Path({str(folder)!r}), "scan", "augment", make_generator("augment", {{"source": "photo"}}), out=None)
"""
    before = (folder / "anchors.csv").read_bytes(), hash_anchor_set(folder)
    assert subprocess.run([sys.executable, "-c", script], env=os.environ, check=False).returncode == 9
    assert ((folder / "anchors.csv").read_bytes(), hash_anchor_set(folder)) == before
    done = filled(folder, "scan", "augment", source="photo")  # what was left over is used again
    assert len(done.filled) == 6 and len(list((folder / "synthetic" / "scan").iterdir())) == 6


@pytest.mark.parametrize(
    ("modality", "name", "options", "what"),
    [
        ("name", "template", {}, "no item of 'name' is missing"),
        ("photo", "template", {}, "makes text, and column 'photo' holds files"),
        ("name", "augment", {"source": "photo"}, "makes files, and column 'name' holds text"),
        ("call", "augment", {"source": "photo"}, "makes .png files, and column 'call' holds items of kind audio"),
        ("new", "augment", {"source": "lab2"}, "'lab2', and the set has none; there are 'concept', 'photo', 'call', "),
        ("new", "augment", {"source": "name"}, "column 'name' holds none"),
        ("new", "augment", {}, "needs source=COLUMN"),
        ("new", "template", {"template": "a picture"}, "would be the same for all"),
        (
            "new",
            "template",
            {"template": "{absent}"},
            "template is to use column 'absent', and the set has none; there",
        ),
        ("new", "template", {"template": "{photo}"}, "use the text of column 'photo', which holds none"),
        ("name", "template", {"template": "{name}"}, "can make none of the 1 items"),
        ("new", "template", {"text": "x"}, "template has no option 'text'; it has template"),
        ("new", "table", {}, "needs file=TABLE"),
        ("new", "table", {"file": "/nowhere.csv"}, "no file /nowhere.csv"),
        ("new", "tempalte", {}, "no generator 'tempalte'; choose one of augment, espeak, table, template"),
        ("quality:name", "template", {}, "is no modality's name"),
        ("concept", "template", {}, "is no modality's name"),
        ("new ", "template", {}, "'new ' is no modality's name"),
        ("lab", "template", {}, "has a table of its own, lab.csv"),
    ],
)
def test_what_cannot_be_filled_is_said(folder, modality, name, options, what):
    write_rows(folder / "lab.csv", [{"concept": "c00", "x": "1"}])
    if modality in ("photo", "call") or name == "augment" or "{name}" in options.values():
        edit(folder, put(0, **{modality: ""}))
    before = tree(folder)
    with pytest.raises((ConfigError, DataError), match=what.replace("(", r"\(")):
        filled(folder, modality, name, **options)
    assert tree(folder) == before


@pytest.mark.parametrize("quality", [0, 1, -0.5, 2, float("nan")])
def test_synthetic_items_are_never_of_full_quality(folder, quality):
    with pytest.raises(ConfigError, match="above 0 and below 1"):
        filled(folder, "caption", "template", quality=quality)


def test_no_folder_is_overwritten(folder, tmp_path):
    with pytest.raises(ConfigError, match="exists already"):
        filled(folder, "caption", "template", folder)
    (tmp_path / "empty").mkdir()
    assert filled(folder, "caption", "template", tmp_path / "empty").filled


def test_packages_may_offer_generators(folder, tmp_path, monkeypatch):
    """A real distribution on the path, as a wheel would install it."""
    package = tmp_path / "site"
    (package / "loud-1.0.dist-info").mkdir(parents=True)
    (package / "loud-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1.0\n")
    (package / "loud-1.0.dist-info" / "entry_points.txt").write_text(f"[{GROUP}]\nloud = loud_generator:Loud\n")
    (package / "loud_generator.py").write_text(
        "from isogram.data.anchor_set import Made\n"
        "class Loud:\n"
        "    def __init__(self, mark):\n"
        "        self.mark = mark\n"
        "    def __call__(self, wanted):\n"
        "        return Made(wanted.concept.upper() + self.mark)\n"
    )
    monkeypatch.syspath_prepend(str(package))
    filled(folder, "shout", "loud", mark="!!")
    assert [row["shout"] for row in read_rows(folder / "anchors.csv")][:2] == ["C00!!", "C01!!"]
    assert read_rows(folder / "anchors.csv")[0]["provenance:shout"] == "synthetic: loud"
    with pytest.raises(ConfigError, match="loud has no option 'pitch'; it has mark"):
        make_generator("loud", {"pitch": "1"})
    with pytest.raises(ConfigError, match=r"loud needs --option mark=\.\.\."):
        make_generator("loud", {})


@pytest.mark.parametrize("made", [Made(b"", ".png"), Made(b"x", ""), Made(b"x", "../x"), Made("  ")])
def test_what_a_generator_makes_is_checked(folder, made):
    with pytest.raises(DataError, match="other"):
        fill_anchor_set(folder, "scan", "other", lambda wanted: made, out=None)


@pytest.mark.parametrize(
    ("quality", "make", "what"),
    [
        (0.9999999, lambda wanted: "seen", r"anchors\.csv: synthetic items of quality 1: 'scan' \(line 2\)"),
        (0.5, lambda wanted: f"{wanted.concept}.png", "column 'scan': no such file in the folder: 'c00.png'"),
        (0.5, lambda wanted: "a\0b", r": anchors\.csv, line 2: a NUL byte"),
        (0.5, lambda wanted: f"photos/{wanted.concept[1:]}.png", "would be read as a file; make all of its"),
    ],
)
@pytest.mark.parametrize("in_place", [True, False])
def test_a_set_that_could_not_be_read_again_is_not_written(folder, tmp_path, in_place, quality, make, what):
    before, out = tree(tmp_path), None if in_place else tmp_path / "new"
    with pytest.raises(DataError, match=f"what was made is not kept.*{what}"):
        fill_anchor_set(folder, "scan", "x", lambda wanted: Made(make(wanted)), out=out, quality=quality)
    assert tree(tmp_path) == before


def test_names_of_files_are_safe_whatever_the_concept_is(folder):
    edit(folder, put(0, concept="../../etc/passwd"))
    edit(folder, put(1, concept="Füße & *?"))
    fill_anchor_set(folder, "a/../b", "x", lambda wanted: Made(wanted.concept.encode(), ".txt"), out=None)
    paths = [Path(row["a/../b"]) for row in read_rows(folder / "anchors.csv")]
    assert {path.parent.as_posix() for path in paths} == {"synthetic/a-b"} and len(set(paths)) == 6
    assert [path.name.rpartition("-")[0] for path in paths[:2]] == ["etc-passwd", "Füße"]
