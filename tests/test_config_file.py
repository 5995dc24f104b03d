import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from isogram.config import (
    BUILT_IN_TRUNKS,
    DATASETS,
    AdapterName,
    Config,
    ModalityConfig,
    ModelConfig,
    NodeFiles,
    SiloNode,
    SilosConfig,
    TermWeights,
)
from isogram.config_file import _keys, commented, read_config, to_toml
from isogram.data import LOADERS, SOURCES
from isogram.errors import ConfigError
from isogram.model.adapters import METHODS

NODES = '[[files.nodes]]\nname = "a"\nmodality = "m"\nrows = "a.csv"\nanchors = "p.csv"\n'


def problems(*settings, text=None, tmp_path=None):
    path = None
    if text is not None:
        path = tmp_path / "run.toml"
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_config(path, settings)
    return caught.value.problems


def test_every_data_set_of_the_settings_can_be_loaded():
    assert list(DATASETS) == list(LOADERS) == list(SOURCES)


def test_trunks_and_adapters_are_described_as_they_are_named():
    assert ModelConfig.model_fields["trunk"].description.startswith(", ".join(BUILT_IN_TRUNKS))
    assert ModelConfig.model_fields["adapter"].description.startswith(", ".join(get_args(AdapterName)))
    assert tuple(METHODS) == get_args(AdapterName)


def test_folders_of_models_count_from_the_files_own_folder(tmp_path):
    (tmp_path / "run.toml").write_text('[model]\ntrunk = "./trunk"\nstart = "../adapter"\n')
    model = read_config(tmp_path / "run.toml").model
    assert (model.trunk, model.start) == (str(tmp_path / "trunk"), str(tmp_path.parent / "adapter"))
    (tmp_path / "run.toml").write_text('[model]\ntrunk = "org/name"\n')
    assert read_config(tmp_path / "run.toml").model.trunk == "org/name"


@pytest.mark.parametrize("data", list(DATASETS))
def test_the_commented_file_gives_back_what_it_was_made_from(tmp_path, data):
    config = read_config(None, [f"data={data}", "train.weights.prototype=0.5", "align.rank=7"])
    path = tmp_path / "run.toml"
    path.write_text(commented(config))
    assert read_config(path) == config
    uncommented = [line for line in path.read_text().splitlines() if re.match(r"^\w+ = [^#]*$", line)]
    assert uncommented == [], "every key says what it means"
    assert all(len(line) <= 132 for line in path.read_text().splitlines())


def test_the_commented_file_names_every_key():
    text = commented(Config())
    for key in dict(_keys(Config)):
        assert re.search(rf"\b{key.rpartition('.')[2]}\b", text), key


weights = st.floats(0, 10, allow_nan=False)


@given(
    seed=st.integers(0, 2**40),
    rho=st.floats(1e-6, 1e3),
    rank=st.none() | st.integers(1, 500),
    cka=weights,
    lr=st.floats(1e-12, 10),
    name=st.from_regex(r"\A[A-Za-z0-9_-][A-Za-z0-9_.-]*\Z"),
    metric=st.booleans(),
)
def test_what_is_written_is_read_back_to_the_bit(tmp_path_factory, seed, rho, rank, cka, lr, name, metric):
    config = Config(
        name=name,
        seed=seed,
        align={"rho": rho, "rank": rank, "metric": metric},
        train={"lr": lr, "weights": {"cka": cka}},
    )
    path = tmp_path_factory.mktemp("toml") / "run.toml"
    path.write_text(to_toml(config))
    assert read_config(path) == config


def test_paths_count_from_the_file_and_survive_being_resolved(tmp_path):
    (tmp_path / "deep").mkdir()
    path = tmp_path / "deep" / "mine.toml"
    path.write_text('data = "files"\n' + NODES + '[files.held_out]\nm = "../t.csv"\n')
    config = read_config(path)
    assert config.name == "mine" and config.anchors == 0
    assert config.files.nodes[0].rows == (tmp_path / "deep" / "a.csv").resolve()
    assert config.files.held_out["m"].resolve() == (tmp_path / "t.csv").resolve()
    again = tmp_path / "resolved.toml"
    again.write_text(to_toml(config))
    assert read_config(again) == config


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("train.ruonds=3", "unknown key 'train.ruonds'; did you mean 'train.rounds'?"),
        ("rounds=3", "unknown key 'rounds'; did you mean 'train.rounds'?"),
        ("algin.rho=1", "unknown key 'algin'; did you mean 'align'?"),
        ("train.weights.ckaa=1", "unknown key 'train.weights.ckaa'; did you mean 'train.weights.cka'?"),
        ("train.xyzzy=1", "unknown key 'train.xyzzy'; there are anchor_batch, batch"),
        ("align.rho=-1", "align.rho = -1: should be greater than 0"),
        ("train.steps=many", "train.steps = 'many': should be a valid integer"),
        ("data=digts", "data: no data set 'digts': choose one of tcga-brca"),
        ("data=digts", "did you mean 'digits'?"),
        ("model.trunk=smal", "model.trunk: no trunk 'smal': choose one of none, small"),
        ("model.trunk=smal", "did you mean 'small'?"),
        ("model.adapter=lora", "model.adapter = 'lora': should be 'geolora', 'geodora'"),
        ("align.rho=inf", "align.rho = inf: should be a finite number"),
        ("train.rounds=5\nseed=3", "train.rounds = '5"),
        ("train.rounds", "cannot read the setting 'train.rounds'; write KEY=VALUE"),
        ("seed.x=1", "seed = {'x': 1}: should be a valid integer"),
        ("name=a/b", "name: 'a/b' is to name a folder: use letters, digits"),
        ("name=..", "name: '..' is to name a folder"),
        ("anchors=0", "anchors = 0: tcga-brca needs at least 1"),
    ],
)
def test_a_wrong_setting_is_named_with_what_to_write_instead(setting, said):
    assert said in "\n".join(problems(setting))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["train.refresh=1", "model.adapter=ffa-lora"], "renews an orthonormal basis, and ffa-lora has none"),
        (["train.refresh=1", "model.dtype=bfloat16"], "rounds away what train.refresh merges"),
        (["model.adapter=full", "model.dtype=bfloat16"], "or what adapter full trains"),
        (["align.precision=true", "train.frame_update=0.5"], "weighs the first consensus alone"),
        (["model.trunk=none", "model.start=./a"], "trunk none has none"),
    ],
)
def test_settings_that_contradict_each_other_are_told(settings, said):
    [problem] = problems(*settings)
    assert said in problem


def test_all_wrong_settings_are_told_at_once(tmp_path):
    text = 'sede = 1\n[align]\nrho = 0\nclip = "x"\n[train]\nlr = -1\nround = 3\n'
    found = problems("model.layers=0", text=text, tmp_path=tmp_path)
    assert len(found) == 6 and all(line.startswith(str(tmp_path / "run.toml")) for line in found)
    for key in ("'sede'", "align.rho", "align.clip", "train.lr", "'train.round'", "model.layers"):
        assert sum(key in line for line in found) == 1, key


@given(
    st.sampled_from(sorted(k for k in dict(_keys(Config)) if "." in k and not k.startswith(("files", "silos")))),
    st.data(),
)
def test_any_key_with_a_slip_is_refused_and_the_right_one_is_suggested(key, data):
    group, _, last = key.rpartition(".")
    at = data.draw(st.integers(0, len(last) - 1))
    slipped = last[:at] + last[at] + last[at:]  # one letter twice
    if len(last) < 3:
        return
    said = "\n".join(problems(f"{group}.{slipped}=1"))
    assert f"unknown key '{group}.{slipped}'; did you mean '{key}'?" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = \n", "is not TOML: Invalid value (at line 1"),
        ('data = "files"\n', "needs [[files.nodes]] tables"),
        (NODES, 'set data = "files"'),
        ('data = "files"\n' + NODES + NODES, "two nodes are named 'a'"),
        (
            'data = "files"\n' + NODES + '[files.held_out]\nx = "t.csv"\n',
            "files.held_out names 'x', which no node holds",
        ),
        ('data = "files"\n[[files.nodes]]\nname = "a"\n', "files.nodes.0.rows is missing: CSV, one private row a line"),
        ('data = "files"\n' + NODES.replace("rows", "row"), "did you mean 'files.nodes.rows'?"),
        ('data = "files"\n[files]\nclasses = ["a", "a"]\n' + NODES, "classes must be distinct"),
        ('data = "files"\n[files]\nclasses = ["a"]\n' + NODES, "files.labels does not name the column"),
        ('data = "files"\n[files]\nlabels = "id"\n' + NODES, "that column has the names of rows"),
        (
            "[train]\nweights = {task = 0, cka = 0, frame = 0, teacher = 0}\n",
            "train.weights are all 0: there is nothing",
        ),
    ],
)
def test_a_wrong_file_is_explained(tmp_path, text, said):
    assert said in "\n".join(problems(text=text, tmp_path=tmp_path))


def test_a_run_is_named_after_its_file(tmp_path):
    for file, name in (("my run (2).toml", "my-run-2"), (".toml", "toml"), ("é.toml", "run"), ("a.b.toml", "a.b")):
        (tmp_path / file).write_text("")
        assert read_config(tmp_path / file).name == name


def test_a_file_that_is_not_there_or_no_text_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"no file .*; `isogram init"):
        read_config(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read"):
        read_config(tmp_path / "binary.toml")


def test_contradictions_are_told_beside_wrong_settings_and_every_unreadable_one(tmp_path):
    text = 'data = "files"\n[train]\nrounds = -1\n[files.held_out]\nx = "t.csv"\n' + NODES
    found = problems("oops", "=3", text=text, tmp_path=tmp_path)
    assert len(found) == 4 and "files.held_out names 'x'" in found[-1], found


def test_paths_without_a_file_count_from_where_the_command_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    node = "files.nodes=[{name='a',modality='m',rows='a.csv',anchors='p.csv'}]"
    config = read_config(None, ["data=files", node])
    assert config.files.nodes[0].rows == tmp_path.resolve() / "a.csv"
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "config.toml").write_text(to_toml(config))
    assert read_config(tmp_path / "deep" / "config.toml") == config


def test_the_commented_file_for_ones_own_tables_only_needs_its_names_changed(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(commented(Config(), own="files"))
    config = read_config(path)
    assert config.anchors == 0 and config.files.nodes[0].name == "north-rna" and config.files.labels == "diagnosis"


def test_the_commented_file_for_silos_only_needs_its_names_changed(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(commented(Config(), own="silos"))
    config = read_config(path)
    assert config.data == "silos" and config.anchors == 0 and config.silos.anchors == tmp_path / "anchors"
    assert [(node.name, config.silos.modality(node.modality).kind) for node in config.silos.nodes] == [
        ("shop", "image"),
        ("helpdesk", "text"),
    ]
    every = re.sub(r"^# (?=[a-z]+ = )", "", path.read_text().partition("[silos]")[2], flags=re.MULTILINE)
    shown = set(re.findall(r"^([a-z_]+) = ", every, re.MULTILINE))
    settings = {*SilosConfig.model_fields, *ModalityConfig.model_fields, *SiloNode.model_fields}
    assert shown == settings - {"modalities", "nodes"}  # tables of their own


def test_one_weight_leaves_the_others_as_they_are():
    weights = read_config(None, ["train.weights.task=0.2"]).train.weights
    assert weights == TermWeights(task=0.2) and weights.frame == Config().train.weights.frame > 0
    assert TermWeights.only(task=0.2).model_dump() == dict.fromkeys(TermWeights.model_fields, 0) | {"task": 0.2}


def test_classes_may_be_whole_numbers(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text('data = "files"\n[files]\nlabels = "ill"\nclasses = [0, 1]\n' + NODES)
    assert read_config(path).files.classes == ("0", "1")


def test_settings_on_the_command_line_win_over_the_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("seed = 3\n[train]\nrounds = 2\n")
    config = read_config(path, ["train.rounds=5", "train.weights.cka=2", "name=other", "model.trunk=none"])
    assert (config.seed, config.train.rounds, config.train.weights.cka) == (3, 5, 2.0)
    assert (config.name, config.model.trunk) == ("other", "none")


def test_every_setting_says_what_it_means():
    def walk(model):
        for name, entry in model.model_fields.items():
            if isinstance(entry.annotation, type) and issubclass(entry.annotation, BaseModel):
                if name != "weights":
                    walk(entry.annotation)
            elif name != "nodes":
                assert entry.description, f"{model.__name__}.{name}"

    walk(Config)
    walk(NodeFiles)


def test_explained_errors_leave_out_what_only_follows():
    assert len(problems("data=digts", "seed=-1")) == 2


BOUNDED = {
    "seed": -1,
    "threads": 0,
    "align.rho": 0,
    "align.rank": 0,
    "align.clip": "'wide'",
    "align.metric": "'perhaps'",
    "model.adapter": "'gpt'",
    "model.width": 10,
    "train.rounds": -2,
    "train.lr": "inf",
    "train.frame_update": 1.5,
    "train.weights.cka": -0.1,
    "output.tensorboard": 7,
    "nonsense": 1,
}


@given(st.sets(st.sampled_from(sorted(BOUNDED))), st.permutations(sorted(BOUNDED)))
def test_any_set_of_wrong_settings_is_told_in_full_and_no_right_one_with_it(wrong, order):
    settings = [f"{key}={BOUNDED[key]}" for key in order if key in wrong]
    right = ["train.steps=3", "train.weights.task=0.25", "align.power=1"]
    if not wrong:
        assert read_config(None, [*settings, *right]).train.steps == 3
        return
    said = problems(*settings, *right)
    assert len(said) == len(wrong)
    for key in wrong:
        assert sum(line.startswith((f"{key} = ", f"unknown key '{key}'")) for line in said) == 1, (key, said)
