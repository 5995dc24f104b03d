"""A consortium of two sites with real data, in small: what tests of `isogram.deploy` start from."""

from pathlib import Path

from isogram.data.anchor_set import hash_anchor_set

CONSORTIUM = """
name = "two-hospitals"
anchors = "{anchors}"

[server]
address = "{address}"

[modalities.numbers]
kind = "table"

[modalities.notes]
kind = "text"

[[sites]]
name = "north"
modality = "numbers"
contact = "it@north.example"

[[sites]]
name = "south"
modality = "notes"

[run.train]
rounds = 2
"""

EAST = """
[[sites]]
name = "east"
modality = ["numbers", "notes"]
"""


def write_data(folder: Path) -> str:
    """Data of two sites and an anchor set; its hash."""
    anchors = folder / "anchors"
    anchors.mkdir(parents=True)

    (anchors / "anchors.csv").write_text("concept,notes\n" + "".join(f"c{i},note number {i}\n" for i in range(4)))

    (folder / "numbers.csv").write_text("a,b\n" + "".join(f"{i}.5,{i * i}\n" for i in range(5)))
    (folder / "notes.csv").write_text("notes\n" + "".join(f"all well {i}\n" for i in range(5)))
    return hash_anchor_set(anchors)


def write_consortium(folder: Path, address: str = "localhost:9092", anchors: str = "0" * 64, more: str = "") -> Path:
    """The coordinator's file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "consortium.toml"
    head, run = CONSORTIUM.format(address=address, anchors=anchors).split("[run.train]")
    path.write_text(f"{head}{more}\n[run.train]{run}")
    return path
