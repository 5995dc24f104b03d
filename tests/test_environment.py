"""The set-up: what is installed, what the Makefile asks pip for and when, and what no file may hold."""

import ast
import os
import re
import shutil
import subprocess
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import jaxtyping
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from isogram.alignment import gram

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TORCH = re.findall(r"^TORCH := (\S+)$", MAKEFILE, re.MULTILINE)[0]
CPU_HOST = "download.pytorch.org"
HEADER = re.compile(r"http:/{2}www\.w3\.org/(?:2000/svg|1999/xlink)\b")


# What is installed.


@pytest.mark.skipif(os.environ.get("ISOGRAM_CUDA") == "1", reason="the user asked for CUDA")
def test_cpu_environment_holds_no_cuda_and_no_torchvision():
    assert torch.version.cuda is None, "PyTorch for CUDA: run `make env`, or say ISOGRAM_CUDA=1 if you want it"
    installed = {canonicalize_name(distribution.metadata["Name"]) for distribution in distributions()}
    assert "torch" in installed
    assert [name for name in sorted(installed) if re.match(r"nvidia-|cu(da|\d)|triton$|torchvision$", name)] == []


def test_torch_is_the_makefiles():
    assert Version(torch.__version__).public == TORCH


def test_constraints_pin_every_requirement_but_torch():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    wanted = [Requirement(line) for line in project["dependencies"] + extras]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    assert [name for name in pins if re.match(r"torch|nvidia|cu(da|\d)", name)] == []
    for requirement in (one for one in wanted if one.name != project["name"]):  # an extra may name others of ours
        pin = TORCH if requirement.name == "torch" else pins[canonicalize_name(requirement.name)]
        assert pin in requirement.specifier, requirement


def test_shapes_are_checked_under_pytest():
    with pytest.raises(jaxtyping.TypeCheckError):
        gram(torch.zeros(3, 2, 1))


# What no file may hold.


@pytest.fixture(scope="module")
def tracked():
    """Text of every file of the repository."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()]
    return {path: (ROOT / path).read_text(encoding="utf-8", errors="replace") for path in paths}


def hosts(text):
    return set(re.findall(r"[a-z]+://(?:[^/\s@]*@)?([a-z0-9.-]*[a-z0-9])", text, re.IGNORECASE))


def test_pytorchs_index_is_the_only_host(tracked):
    assert hosts(MAKEFILE) == {CPU_HOST}
    # The addresses in a licence and in a drawing's header are names that nothing contacts.
    texts = {path: text for path, text in tracked.items() if path.name != "LICENSE" and path.suffix != ".svg"}
    named = {path: hosts(HEADER.sub("", text)) - {CPU_HOST} for path, text in texts.items()}
    for path in named:
        if path.parts[0] in ("tests", "docs"):
            named[path] -= {"127.0.0.1"}  # this machine
        if path.parts[0] == "tests":
            named[path] -= {"evil.example"}  # a name that is nobody's
    assert {path: found for path, found in named.items() if found} == {}


RUNS_CODE = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "torch.load", "read_pickle", "unsafe_load"}


def unsafe_loading(source):
    """What in this Python reads a format that can run code."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from {alias.name.split(".")[0] for alias in names} & RUNS_CODE
            case ast.ImportFrom(module=str(module)):
                yield from {module.split(".")[0]} & RUNS_CODE
            case ast.Attribute(attr=name):
                yield from {name, ast.unparse(node)} & RUNS_CODE
            case ast.keyword(arg="allow_pickle", value=value) if ast.unparse(value) != "False":
                yield "allow_pickle"


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("import pickle", 1),
        ("from joblib import load", 1),
        ("torch.load(path)", 1),
        ("np.load(path, allow_pickle=True)", 1),
        ("pd.read_pickle(path)", 1),
        ("np.load(path, allow_pickle=False)", 0),
        ("safetensors.torch.load(blob)", 0),
    ],
)
def test_unsafe_loading_is_seen(line, count):
    assert len(list(unsafe_loading(line))) == count


def test_nothing_is_loaded_from_pickles(tracked):
    found = {path: list(unsafe_loading(text)) for path, text in tracked.items() if path.suffix == ".py"}
    assert found
    weights = Path("src/isogram/data/pictures/encoders.py")  # a published checkpoint, tensors alone
    assert "weights_only=True" in tracked[weights]
    assert found.pop(weights) == ["torch.load"]
    assert {path: names for path, names in found.items() if names} == {}


# What the Makefile does, with a Python that only writes down what it is asked. Every run is in a path with a space.

STUB = """#!/bin/sh
case "$*" in
  *ensurepip*) exit 0;;
  --version) echo "Python 3.13.9 (stub)"; exit 0;;
  "-m venv --clear "*) rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python; cp "$0" .venv/bin/isogram;;
esac
echo "$(basename "$0") $*" >> "$LOG"
case " $* " in *"$FAIL"*) exit 1;; esac
"""
LAST = "install -c constraints.txt -e .[dev]"


@pytest.fixture
def make(tmp_path):
    """Run make in `make.folder`; gives back exit status, pip's requests (or other calls), and what the user reads."""
    if shutil.which("make") is None:
        pytest.skip("no make on this machine")
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    folder = tmp_path / "a folder  with spaces"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
        os.utime(folder / name, (1, 1))
    for name, script in (("python3.13", STUB), ("uname", '#!/bin/sh\necho "${SYSTEM:-Linux}"\n')):
        (stubs / name).write_text(script)
        (stubs / name).chmod(0o755)

    def run(*arguments, fail="never", system="Linux"):
        log = tmp_path / "log"
        log.write_text("")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        kept = {name: value for name, value in kept.items() if name not in {"CUDA", "PYTHON", "ISOGRAM_CUDA"}}
        path = f"{stubs}{os.pathsep}{os.environ['PATH']}"
        environment = kept | {"PATH": path, "LOG": str(log), "FAIL": fail, "SYSTEM": system}
        command = ["make", *arguments]
        done = subprocess.run(command, cwd=run.folder, env=environment, capture_output=True, text=True, check=False)
        pip = "python -m pip --disable-pip-version-check --quiet "
        return (
            done.returncode,
            [line.removeprefix(pip) for line in log.read_text().splitlines()],
            done.stdout + done.stderr,
        )

    run.folder = folder
    return run


VENV_CALL = "python3.13 -m venv --clear .venv"
CPU = f"install --no-deps torch=={TORCH}+cpu"


def test_set_up_runs_once(make):
    assert make("demo")[:2] == (0, [VENV_CALL, CPU, LAST, "isogram demo"])
    assert make("demo")[:2] == (0, ["isogram demo"])


def test_pytorchs_own_index_is_the_second_choice(make):
    fallback = f"install --no-deps torch=={TORCH} --index-url https://{CPU_HOST}/whl/cpu"
    assert make("env", fail="+cpu ")[:2] == (0, [VENV_CALL, CPU, fallback, LAST])
    status, calls, text = make("env", "CUDA=0", "--always-make", fail=" torch==")
    assert status != 0 and calls[-1] == fallback and "run the same command again" in text


@pytest.mark.parametrize(("system", "arguments"), [("Darwin", []), ("Linux", ["CUDA=1"])])
def test_plain_pytorch_on_macos_and_with_cuda(make, system, arguments):
    assert make("env", *arguments, system=system)[:2] == (0, [VENV_CALL, f"install torch=={TORCH}", LAST])


def test_cuda_stays_until_it_is_taken_back(make):
    assert make("env", "CUDA=1")[1][0] == VENV_CALL
    assert make("env")[1] == []
    assert make("env", "CUDA=0")[1] == [VENV_CALL, CPU, LAST]
    assert make("env")[1] == []


@pytest.mark.parametrize("step", [" torch==", "constraints.txt"])
def test_an_interrupted_set_up_starts_anew(make, step):
    assert make("env", fail=step)[0] != 0
    assert make("env")[:2] == (0, [VENV_CALL, CPU, LAST])


def test_new_requirements_are_installed_into_what_is_there(make):
    make("env")
    os.utime(make.folder / "constraints.txt")
    os.utime(make.folder / ".venv" / "complete", (2, 2))
    assert make("env")[1] == [CPU, LAST]
    assert make("env")[1] == []


def test_a_moved_folder_gets_a_new_environment(make):
    make("env")
    make.folder = make.folder.rename(make.folder.with_name("moved, (here) $HOME"))
    assert make("env")[:2] == (0, [VENV_CALL, CPU, LAST])
    assert make("env")[1] == []


def test_no_suitable_python_is_said_plainly(make, tmp_path):
    for name in ("python3.13", "python3.12", "python3.11", "python3"):
        (tmp_path / "stubs" / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "stubs" / name).chmod(0o755)
    status, calls, text = make("demo")
    assert status != 0 and calls == [] and "No Python 3.11 or newer" in text


def test_help_makes_nothing(make):
    status, calls, text = make()
    assert (status, calls) == (0, []) and "make demo" in text and not (make.folder / ".venv").exists()
