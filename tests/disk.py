"""A real small file system, in a namespace of its own: no test's disk fills up but that one."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src"


def on_disk(folder, *commands, size="64k"):
    """Lines that shell commands print, run one after the other with a file system of this size on `folder`.

    Skips where nothing may be mounted; fails if the last command does.
    """
    folder.mkdir()
    mount = f"mount -t tmpfs -o size={size} none '{folder}'"
    if shutil.which("unshare") is None or _run(mount).returncode:
        pytest.skip("no file system may be mounted here")
    done = _run("; ".join([f"{mount} || exit 9", *commands]))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def _run(script):
    environment = os.environ | {"PYTHONPATH": str(PACKAGE), "PYTHONDONTWRITEBYTECODE": "1"}
    command = ["unshare", "-rm", "sh", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
