"""`isogram node check`, and a run on silos from the command line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from silos import table, write_silos
from tiny_models import tiny
from typer.testing import CliRunner

from isogram.bench import check_settings
from isogram.cli import app
from isogram.config_file import read_config
from isogram.data import open_data
from isogram.errors import DataError
from isogram.model import SavedModel

RUN = CliRunner(env={"COLUMNS": "200"})
SMALL = [
    "-s",
    "threads=1",
    "-s",
    "model.width=48",
    "-s",
    "model.layers=1",
    "-s",
    "train.rounds=1",
    "-s",
    "train.steps=1",
]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_silos(tmp_path_factory.mktemp("silos")).parent


@pytest.fixture
def folder(written, tmp_path, monkeypatch):
    """A folder of its own that commands run in."""
    monkeypatch.setenv("ISOGRAM_CACHE", str(tmp_path / "cache"))
    shutil.copytree(written, tmp_path / "s")
    monkeypatch.chdir(tmp_path / "s")
    return tmp_path / "s"


def check(*arguments):
    return RUN.invoke(app, ["node", "check", *map(str, arguments)])


def as_json(*arguments):
    done = check(*arguments, "--json", "--quiet")
    return done.exit_code, json.loads(done.stdout)


def test_a_node_is_told_as_it_is_understood(folder):
    done = check("own.toml", "--node", "desk")
    assert done.exit_code == 0, done.output
    assert [" ".join(line.split()) for line in done.stdout.splitlines()] == [
        f"desk: {folder}/texts.csv",
        "kind text, encoder builtin, 4 tokens of 256 values",
        "items 40",
        f"example {folder}/texts.csv, line 2: 6 words",
        f"example {folder}/texts.csv, line 3: 6 words",
        f"example {folder}/texts.csv, line 4: 8 words",
        "labels blue 6, green 6, yellow 6, black 5, red 5, pink 4, none 8",
        "groups 16, the largest of 3 rows",
        "anchors 24 compared",
        "columns items: text; id: id; label: colour; group: author",
        "problems none",
    ]
    assert "desk, items read: 40" in done.stderr and not (folder / "runs").exists()


def test_a_folder_is_checked_before_there_is_a_configuration(folder):
    shutil.copy("photos/red/00.png", "photos/copy.png")
    code, (found,) = as_json("photos", "--kind", "image")
    assert code == 0 and found["node"] == "photos" and found["rows"] == found["items"] == 41
    assert found["tokens"] == [16, 588] and found["problems"] == [] and found["labels"] is None
    assert found["examples"][0] == {"where": "photos/black/04.png", "what": "80 x 80 pixels"}
    assert found["notes"] == ["copies of other rows: 1; they are never on both sides of a split"]
    code, (found,) = as_json("texts.csv", "--kind", "text")
    assert code == 0 and found["columns"] == {"items": "text"} and found["unused"] == ["id", "colour", "author"]


def test_the_column_of_a_table_can_be_said(folder):
    table(folder / "t.csv", [["de", "fr"], ["ein Hund", "un chien"], ["eine Katze", "un chat noir"]])
    assert check("t.csv", "--kind", "text").exit_code == 2
    code, (found,) = as_json("t.csv", "--kind", "text", "--column", "fr")
    assert code == 0 and found["columns"] == {"items": "fr"} and found["examples"][1]["what"] == "3 words"
    done = check("own.toml", "--column", "fr")
    assert done.exit_code == 2 and "--column goes with a table; in own.toml it is silos.nodes.column" in done.stderr


def test_sound_is_told_at_the_rate_that_the_encoder_hears(folder):
    model = folder / "hears"
    shutil.copytree(tiny("wav2vec2"), model)
    about = json.loads((model / "preprocessor_config.json").read_text())
    (model / "preprocessor_config.json").write_text(json.dumps(about | {"sampling_rate": 24000}))
    (folder / "sounds").mkdir()
    soundfile.write(folder / "sounds" / "a.wav", np.sin(np.arange(22050) / 9), 44100)
    (folder / "s.toml").write_text(
        'data = "silos"\n[silos]\nanchors = "later"\n[silos.modalities.sound]\nkind = "audio"\n'
        'encoder = "hf:./hears"\n'
        '[[silos.nodes]]\nname = "a"\nmodality = "sound"\ndata = "sounds"\n'
    )
    code, (found,) = as_json("s.toml")
    assert code == 0 and found["examples"][0]["what"] == "0.5 s, 44,100 Hz, resampled to 24,000", found


def test_series_of_other_channels_are_told_as_a_run_reads_them(folder):
    """Without a configuration the first file's channels count, with one the anchors', of whom nobody chose any."""
    rng, rows = np.random.default_rng(0), [["concept", "vibration"]]

    def write(path, names):
        path.parent.mkdir(parents=True, exist_ok=True)
        table(path, [names, *[[f"{one:.3f}" for one in row] for row in rng.normal(size=(100, len(names)))]])

    for number in range(12):
        write(folder / "anchors" / "s" / f"{number}.csv", ["x", "y"])
        rows.append([f"c{number}", f"s/{number}.csv"])
    table(folder / "anchors" / "anchors.csv", rows)
    for number, names in enumerate((["x", "y"], ["x"], ["y", "z", "x"], ["x", "y"], ["x", "y", "w"])):
        write(folder / "series" / f"{number}.csv", names)
    code, (found,) = as_json("series", "--kind", "series")
    assert code == 2 and found["items"] == 2 and len(found["problems"]) == 3
    assert "series/2.csv: has columns 'z' beside 'x', 'y', which the first item has" in found["problems"][1]
    own = '[silos.modalities.vibration]\nkind = "series"\n'
    node = '[[silos.nodes]]\nname = "s"\nmodality = "vibration"\ndata = "series"\n'
    (folder / "s.toml").write_text(f'data = "silos"\n[silos]\nanchors = "anchors"\n{own}{node}')
    code, (found,) = as_json("s.toml")
    assert code == 2 and len(found["problems"]) == 1 and "1.csv: lacks the channels 'y'" in found["problems"][0]
    note = f"2 of 4 with other columns than the anchors, which are not read: {folder}/series/2.csv"
    assert found["notes"] == [note] and f"  note      {note}\n" in check("s.toml").stdout
    (folder / "series" / "1.csv").unlink()
    data = open_data(read_config(folder / "s.toml", ["silos.held_out=0"]))
    assert data.notes == (f"s: {note}",)
    (folder / "s.toml").write_text((folder / "s.toml").read_text().replace(own, f'{own}columns = ["x", "y"]\n'))
    assert as_json("s.toml")[1][0]["notes"] == []


def test_rates_and_channels_of_sound_are_counted(folder):
    (folder / "sounds").mkdir()
    wave = np.random.default_rng(0).normal(size=(8000, 6)).clip(-3, 3) / 4
    for name, rate, channels in (("a", 16000, 1), ("b", 8000, 1), ("c", 16000, 6), ("d", 8000, 2)):
        soundfile.write(folder / "sounds" / f"{name}.wav", wave[:, :channels], rate)
    code, (found,) = as_json("sounds", "--kind", "audio")
    assert code == 0 and found["notes"] == [
        "2 of 4 at 8,000 Hz, resampled to 16,000: sounds/b.wav",
        "1 of 4 with 6 channels, averaged to one: sounds/c.wav",
        "1 of 4 with 2 channels, averaged to one: sounds/d.wav",
    ]


def test_classes_are_checked_as_a_run_checks_them(folder):
    text = (folder / "own.toml").read_text()
    (folder / "own.toml").write_text(text.replace("[silos]", '[silos]\nclasses = ["red", "green"]'))
    code, (shop, desk) = as_json("own.toml")
    others = ["black", "blue", "pink", "yellow"]
    assert code == 2 and [line.split("'")[3] for line in shop["problems"]] == others
    assert f"'black' (6 rows, the first {folder}/photos/black/04.png)" in shop["problems"][0]
    assert sorted(line.split("'")[3] for line in desk["problems"]) == others
    assert all("they are 'red', 'green': declare it there, correct the rows, or" in line for line in desk["problems"])
    (folder / "own.toml").write_text(text)
    for colour in ("green", "blue", "yellow", "black", "pink"):
        shutil.rmtree(folder / "photos" / colour)
    code, (shop, _) = as_json("own.toml")
    note = "all its labels are 'red'; unless other nodes have others, they tell no rows apart"
    assert code == 0 and shop["notes"] == [note]
    (folder / "own.toml").write_text(text.replace('label = "colour"\n', ""))
    code, (shop, _) = as_json("own.toml")
    assert code == 2 and "all labels are 'red': one class tells no rows apart" in shop["problems"][0]
    code, (shop,) = as_json("own.toml", "--node", "shop", "-q")
    assert code == 2, "no other node has labels"
    (folder / "own.toml").write_text(text.replace('kind = "image"', 'kind = "imag"'))
    code, (shop, desk) = as_json("own.toml")
    assert code == 2 and "no kind of data 'imag'" in shop["problems"][0] and desk["items"] == 40


def test_all_problems_are_told_and_end_with_2(folder):
    for number in range(30):
        (folder / "photos" / "red" / f"bad{number:02d}.png").write_bytes(b"no picture")
    done = check("own.toml")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.exit_code == 2 and len(errors) == 21 and errors[-1] == "error: 10 more problems: --json prints all"
    assert "photos/red/bad00.png: is no picture" in errors[0] and "items     40 of 70 rows" in done.stdout
    code, (shop, desk) = as_json("own.toml")
    assert code == 2 and len(shop["problems"]) == 30 and desk["problems"] == []


def test_what_skip_bad_leaves_out_is_counted_and_no_problem(folder):
    Path("photos/red/bad.png").write_bytes(b"no picture")
    shutil.copy("anchors/photo/5.png", "photos/red/99.png")
    Path("texts.csv").write_text(Path("texts.csv").read_text() + "t98,,red,me\n")
    assert check("own.toml").exit_code == 2
    code, (shop, desk) = as_json("own.toml", "--skip-bad")
    assert code == 0 and shop["problems"] == desk["problems"] == []
    assert shop["notes"][-1] == "2 left out (silos.skip_bad)" and desk["notes"] == ["1 left out (silos.skip_bad)"]
    assert "photos/red/bad.png: is no picture" in shop["left_out"][0] and "stands twice: " in shop["left_out"][1]
    assert len(shop["left_out"]) == 2 and "line 42, column 'text': empty" in desk["left_out"][0]
    assert (shop["rows"], shop["items"]) == (42, 40) and sum(shop["labels"].values()) == 40
    assert (desk["rows"], desk["items"]) == (41, 40) and sum(desk["labels"].values()) == 40
    text = Path("own.toml").read_text()
    Path("own.toml").write_text(text.replace("[silos]", "[silos]\nskip_bad = true"))
    done = check("own.toml")
    assert done.exit_code == 0 and "  note      2 left out (silos.skip_bad)\n  problems  none" in done.stdout
    assert done.stderr.count("left out: ") == 3 and "error" not in done.stderr
    assert check("photos", "--kind", "image").exit_code == 2
    assert check("photos", "--kind", "image", "--skip-bad").exit_code == 0
    Path("own.toml").write_text(text)
    assert RUN.invoke(app, ["doctor", "own.toml"]).exit_code == 2
    done = RUN.invoke(app, ["doctor", "own.toml", "--skip-bad"])
    assert done.exit_code == 0 and done.stderr.count(" rows left out: ") == 2
    notes = json.loads(RUN.invoke(app, ["doctor", "own.toml", "--skip-bad", "--json"]).stdout)["notes"]
    assert notes[0].startswith("shop: 2 of 42 rows left out: ")
    done = RUN.invoke(app, ["run", "own.toml", "--skip-bad", "-s", "train.rounds=0", "-s", "threads=1"])
    assert done.exit_code == 0 and read_config(Path("runs/own/config.toml")).silos.skip_bad, done.output
    for file in Path("photos").rglob("*.png"):
        file.write_bytes(b"no picture")
    code, (shop, _) = as_json("own.toml", "--skip-bad")
    assert code == 2 and len(shop["problems"]) == 42 and shop["left_out"] == [], "leaving all out helps nobody"
    done = RUN.invoke(app, ["doctor", "--data", "machines", "--skip-bad"])
    assert done.exit_code == 2 and "--skip-bad is short for silos.skip_bad = true" in done.stderr


def test_what_cannot_be_found_or_encoded_is_a_problem_beside_the_others(folder):
    text = (folder / "own.toml").read_text().replace('kind = "image"', 'kind = "image"\nencoder = "lite"')
    (folder / "own.toml").write_text(text.replace('"texts.csv"', '"text.csv"'))
    code, (shop, desk) = as_json("own.toml")
    assert code == 2 and shop["items"] == 40 and "no encoder 'lite'" in shop["problems"][0] and shop["tokens"] is None
    assert "no file or folder" in desk["problems"][0] and desk["rows"] == 0


def test_a_silo_without_the_anchor_set_can_be_checked(folder):
    shutil.rmtree(folder / "anchors")
    done = check("own.toml")
    assert done.exit_code == 0 and f"not compared with anchors: there is no folder {folder}/anchors" in done.stdout


def test_rows_are_compared_with_the_anchors_as_in_a_run(folder):
    """The same rule as `load_silos`: what encoders see of a row, and ids that are names of concepts."""
    assert [one["anchors"] for one in as_json("own.toml")[1]] == [24, 24]
    Image.open("anchors/photo/5.png").save("photos/red/98.bmp")
    for number in range(6):
        shutil.copy(f"anchors/photo/{number}.png", f"photos/red/9{number}.png")
    text = Path("texts.csv").read_text()
    Path("texts.csv").write_text(f"{text}red tiny,something new,red,me\n")
    code, (shop, desk) = as_json("own.toml")
    assert code == 2 and len(shop["problems"]) == 7 and all("stands twice: " in line for line in shop["problems"])
    both = f"{folder}/anchors/anchors.csv, line 7, column 'photo' (anchor) = {folder}/photos/red/98.bmp (private)"
    assert any(both in line and "leave it out of the other" in line for line in shop["problems"])
    (said,) = desk["problems"]
    assert "anchor 'red tiny' = " in said and f"{folder}/texts.csv, line 42 (private, by its id)" in said
    with pytest.raises(DataError, match=r"rows that stand twice: .* and 3 more \(isogram node check names all\)"):
        open_data(read_config(folder / "own.toml"))
    code, (shop,) = as_json("own.toml", "--node", "shop")
    assert code == 2 and len(shop["problems"]) == 7


def test_what_the_anchors_lack_or_have_of_another_kind_is_told(folder):
    text = (folder / "own.toml").read_text()
    (folder / "own.toml").write_text(text.replace('"photo"', '"photos"').replace("s.photo]", "s.photos]"))
    code, (shop, desk) = as_json("own.toml")
    assert code == 2 and desk["problems"] == [] and desk["anchors"] == 24 and shop["anchors"] is None
    assert shop["problems"] == [f"{folder}/anchors/anchors.csv: no column 'photos'; did you mean 'photo'?"]
    (folder / "own.toml").write_text(text.replace('kind = "image"', 'kind = "audio"'))
    code, (shop, _) = as_json("own.toml")
    assert code == 2 and any("anchors.csv, line 2, column 'photo'" in line for line in shop["problems"])


def test_a_table_is_read_by_the_columns_of_the_anchors(folder):
    table(folder / "anchors" / "lab.csv", [["concept", "b", "a"], ["red tiny", "1", "2"]])
    table(folder / "rows.csv", [["pid", "a", "b", "age"], ["p1", "1", "2", "50"], ["p2", "x", "2", "60"]])
    more = (
        '[silos.modalities.lab]\nkind = "table"\n[[silos.nodes]]\nname = "lab"\nmodality = "lab"\ndata = "rows.csv"\n'
    )
    (folder / "own.toml").write_text((folder / "own.toml").read_text() + more)
    code, (found,) = as_json("own.toml", "--node", "lab")
    assert code == 2 and found["columns"] == {"numbers": "b, a"} and found["unused"] == ["pid", "age"]
    assert found["rows"] == 2 and found["items"] == 1 and found["examples"][0]["what"] == "2 numbers"
    assert "rows.csv, line 3, no finite number in column 'a': x" in found["problems"][0]


def test_one_group_for_all_rows_is_told_with_what_it_means(folder):
    text = (folder / "own.toml").read_text().replace('label = "folder"\n', "")
    (folder / "own.toml").write_text(text)
    lines = Path("texts.csv").read_text().splitlines()
    Path("texts.csv").write_text("\n".join([lines[0], *(f"{line.rpartition(',')[0]},Ann" for line in lines[1:])]))
    what = (
        "all rows are of one group, 'Ann' (group = 'author'); groups stay together, so no row can be held out: name a"
    )
    code, (_, desk) = as_json("own.toml")
    assert code == 0 and what in desk["notes"][0]
    (folder / "own.toml").write_text(text.replace("[silos]", '[silos]\nmeasure = "rows"'))
    code, (shop, _) = as_json("own.toml")
    assert code == 2 and shop["problems"][0].startswith(f"node 'desk': {what}")


def test_a_column_of_many_labels_is_not_printed_whole(folder):
    """Of a text that was taken for a label, nobody wants to read a thousand."""
    (folder / "own.toml").write_text((folder / "own.toml").read_text().replace('label = "colour"', 'label = "id"'))
    line = next(line for line in check("own.toml", "--node", "desk").stdout.splitlines() if line.startswith("  labels"))
    assert line.endswith(" and 20 more") and line.count(",") == 19


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["photos"], "photos is no configuration (.toml): say what its items are, such as --kind image"),
        (["photos", "--kind", "imag"], "no kind of data 'imag'"),
        (
            ["photos", "--kind", "image", "--node", "shop"],
            "--node goes with a configuration (.toml), and photos is none",
        ),
        (["own.toml", "--kind", "image"], "--kind goes with a folder or table"),
        (["own.toml", "--node", "shop/photo"], "no node 'shop/photo'; there are 'shop', 'desk'"),
        (["own.toml", "--node", "Dask"], "no node 'Dask'; did you mean 'desk'?"),
        (["none.toml"], "no file none.toml"),
        (["other.toml"], 'data = "machines" has no nodes to check'),
    ],
)
def test_what_cannot_be_checked_is_told(folder, arguments, words):
    (folder / "other.toml").write_text('data = "machines"\n')
    done = check(*arguments)
    assert done.exit_code == 2 and words in done.stderr and "Traceback" not in done.output


def test_a_run_on_silos_goes_from_folders_to_a_page_and_a_model(folder):
    done = RUN.invoke(app, ["doctor", "own.toml"])
    assert done.exit_code == 0 and "shop: 40" in done.stderr, done.output
    done = RUN.invoke(app, ["run", "own.toml", *SMALL])
    assert done.exit_code == 0, done.output
    assert "isogram" in done.stdout and (folder / "runs" / "own" / "report.html").exists()
    assert "encoding" not in done.stderr  # the doctor's command has left it in the cache
    state = json.loads((folder / "runs" / "own" / "run.json").read_text())
    assert state["complete"] and state["data"] == "silos" and state["anchors"] == 19
    model = SavedModel.load(folder / "runs" / "own" / "model.safetensors")
    assert {name: config.kind for name, config in model.encoders.items()} == {"photo": "image", "text": "text"}
    assert read_config(Path("runs/own/config.toml")).silos == read_config(Path("own.toml")).silos


def test_a_run_is_refused_when_rows_have_changed(folder):
    assert RUN.invoke(app, ["align", "own.toml", *SMALL]).exit_code == 0
    (folder / "photos" / "red" / "00.png").unlink()
    done = RUN.invoke(app, ["align", "own.toml", *SMALL, "--resume"])
    assert done.exit_code == 2 and "was made with other data than silos holds now" in done.stderr


def test_nothing_is_written_for_silos_with_problems(folder):
    (folder / "photos" / "red" / "00.png").write_bytes(b"no picture")
    done = RUN.invoke(app, ["run", "own.toml", *SMALL])
    assert done.exit_code == 2 and "photos/red/00.png" in done.stderr and not (folder / "runs").exists()


def test_init_writes_an_example_of_silos_to_fill_in(folder):
    for arguments in (["--data", "silos"], ["--set", "data=silos"], ["-s", 'data = "silos"', "-s", "seed=3"]):
        done = RUN.invoke(app, ["init", "new.toml", "--force", *arguments])
        assert (
            done.exit_code == 0 and "fill in [silos], then: isogram node check new.toml, isogram doctor" in done.stdout
        )
    text = (folder / "new.toml").read_text()
    assert '\n[[silos.nodes]]\nname = "shop"' in text and "\n# [[files.nodes]]" in text and "\nseed = 3" in text
    said = check("new.toml").stderr
    assert f"no file or folder {folder}/tickets.csv" in said


def test_the_demo_and_benchmarks_know_silos_as_ones_own_data(folder):
    done = RUN.invoke(app, ["demo", "own.toml"])
    assert done.exit_code == 2 and "for your own data: isogram run" in done.stderr
    check_settings(read_config(Path("own.toml")), folder / "rows.jsonl", default=False)
    kept = read_config(folder / "rows.toml")
    assert kept.data == "silos" and kept.silos == read_config(Path("own.toml")).silos
