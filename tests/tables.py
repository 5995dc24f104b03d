"""CSV tables of a small federation with known truth, for runs on files."""

import numpy as np

COLUMNS = {"rna": 9, "meth": 7}
CLASSES = ("healthy", "ill", "odd")

CONFIG = """
data = "files"

[files]
labels = "diagnosis"
classes = ["healthy", "ill", "odd"]
held_out = { rna = "test/rna.csv", meth = "test/meth.csv" }

[[files.nodes]]
name = "north"
modality = "rna"
rows = "north.csv"
anchors = "public/rna.csv"

[[files.nodes]]
name = "south"
modality = "rna"
rows = "south.csv"
anchors = "public/rna.csv"

[[files.nodes]]
name = "lab"
modality = "meth"
rows = "lab.csv"
anchors = "public/meth.csv"
"""


def write_tables(folder, *, anchors=30, rows=24, test=12, seed=0):
    """Tables and a configuration; gives back the configuration's path."""
    rng = np.random.default_rng(seed)
    mixing = {m: rng.normal(size=(4, width)) for m, width in COLUMNS.items()}

    def see(latent, modality):
        return latent @ mixing[modality] + 0.1 * rng.normal(size=(len(latent), COLUMNS[modality]))

    def draw(n):
        labels = np.arange(n) % len(CLASSES)
        return rng.normal(size=(n, 4)) + 2 * np.eye(4)[labels], labels

    def write(name, modality, values, ids=None, labels=None):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        header = [f"{modality}{i}" for i in range(values.shape[1])]
        lines = [[f"{v:.6f}" for v in row] for row in values]
        if ids is not None:
            header, lines = ["id", *header], [[i, *line] for i, line in zip(ids, lines, strict=True)]
        if labels is not None:
            header, lines = [*header, "diagnosis"], [[*line, x] for line, x in zip(lines, labels, strict=True)]
        path.write_text("\n".join(",".join(line) for line in [header, *lines]) + "\n")

    shared, _ = draw(anchors)
    for modality in COLUMNS:
        write(f"public/{modality}.csv", modality, see(shared, modality), [f"anchor-{i}" for i in range(anchors)])
    for name, modality in (("north", "rna"), ("south", "rna"), ("lab", "meth")):
        latent, labels = draw(rows)
        told = [CLASSES[c] if i % 5 else "" for i, c in enumerate(labels)] if modality == "rna" else None
        write(f"{name}.csv", modality, see(latent, modality), [f"{name}-{i}" for i in range(rows)], told)
    latent, labels = draw(test)
    for modality in COLUMNS:
        truth = [CLASSES[c] for c in labels] if modality == "rna" else None
        write(f"test/{modality}.csv", modality, see(latent, modality), [f"test-{i}" for i in range(test)], truth)
    path = folder / "own.toml"
    path.write_text(CONFIG)
    return path


def shuffle_anchors(folder, modality, seed=0):
    """Give the anchors of one modality each other's ids: they no longer mean what the others' mean."""
    path = folder / "public" / f"{modality}.csv"
    header, *lines = path.read_text().splitlines()
    order = np.random.default_rng(seed).permutation(len(lines))
    cells = [line.partition(",") for line in lines]
    mixed = [f"{cells[i][0]},{cell[2]}" for i, cell in zip(order, cells, strict=True)]
    path.write_text("\n".join([header, *mixed]) + "\n")
