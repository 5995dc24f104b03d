import os
import signal
import subprocess
import sys

import pytest
from disk import on_disk

from isogram.errors import DataError, StorageError
from isogram.files import append_lines, keep_lines, make_folder, temporary_files, write_atomic


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "file"
    for content in (b"first", b"", b"x" * 1_000_000):
        write_atomic(path, content)
        assert path.read_bytes() == content
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_secret_is_never_readable_for_others_not_even_while_it_is_written(tmp_path, monkeypatch):
    seen = []
    sync = os.fsync
    monkeypatch.setattr("os.fsync", lambda file: (seen.append(os.fstat(file).st_mode & 0o777), sync(file)))
    before = os.umask(0o022)
    try:
        write_atomic(tmp_path / "secret", b"x", mode=0o600)
        write_atomic(tmp_path / "plain", b"x")
    finally:
        os.umask(before)
    assert seen[0] == (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "plain").stat().st_mode & 0o777 == 0o644


def test_a_writer_killed_before_the_rename_leaves_the_old_file(tmp_path):
    """A real SIGKILL between the synced temporary file and its rename."""
    path = tmp_path / "file"
    write_atomic(path, b"old")
    code = (
        "import os, signal, sys; from pathlib import Path; from isogram import files\n"
        "os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_atomic(Path(sys.argv[1]), b'new' * 1000)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    left = [entry for entry in tmp_path.iterdir() if entry != path]
    assert len(left) == 1 and left[0].stat().st_size > 0, "not killed half-way: the test means nothing"
    assert temporary_files(tmp_path) == left
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"


def test_lines_after_the_last_that_count_are_cut_off(tmp_path):
    path = tmp_path / "log"
    append_lines(path, ["a", "b", "c"])
    with path.open("a") as file:
        file.write('{"half')
    assert keep_lines(path) == ["a", "b", "c"] and path.read_text() == "a\nb\nc\n"
    assert keep_lines(path, 2) == ["a", "b"] and path.read_text() == "a\nb\n"
    assert keep_lines(path, 2) == ["a", "b"] and path.read_text() == "a\nb\n"
    assert keep_lines(path, 0) == [] and path.read_text() == ""
    assert keep_lines(tmp_path / "none", 0) == [] and not (tmp_path / "none").exists()


@pytest.mark.parametrize("text", ["a\n", "a\nb", ""])
def test_fewer_lines_than_were_written_are_told(tmp_path, text):
    path = tmp_path / "log"
    path.write_text(text)
    with pytest.raises(DataError, match=r"log holds \d lines, 2 were written"):
        keep_lines(path, 2)
    assert path.read_text() == text


def test_a_file_where_a_folder_should_be_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match=r"cannot write .*file.*: .*a file is where a folder should be"):
            make_folder(path)


DISK = """
import sys
from pathlib import Path
from isogram.errors import StorageError
from isogram.files import append_lines, make_folder, write_atomic
folder = Path(sys.argv[1])
for step in (
    lambda: write_atomic(folder / "old", b"x" * 300_000),
    lambda: append_lines(folder / "log", ["y" * 300_000]),
    lambda: make_folder(folder / "new" / "deep") or write_atomic(folder / "new" / "deep" / "f", b"x" * 300_000),
):
    try:
        step()
    except StorageError as error:
        print(error)
    else:
        sys.exit("written")
"""


def write_on_small_disk(tmp_path, options):
    (tmp_path / "disk.py").write_text(DISK)
    disk = tmp_path / "disk"
    lines = on_disk(
        disk,
        f"echo old > '{disk}/old'; mount -o remount,{options} '{disk}'",
        f"'{sys.executable}' '{tmp_path}/disk.py' '{disk}' || exit 1; cat '{disk}/old'; ls -A '{disk}'",
    )
    return [line.partition(": ")[2] for line in lines[:3]], lines[3:]


def test_a_full_disk_is_told_and_leaves_what_was_there(tmp_path):
    said, left = write_on_small_disk(tmp_path, "rw")
    assert said == ["No space left on device; free some space on that disk"] * 3
    assert left[0] == "old" and set(left[1:]) <= {"old", "log", "new"}


def test_a_read_only_disk_is_told_and_stays_as_it_was(tmp_path):
    said, left = write_on_small_disk(tmp_path, "ro")
    assert said == ["Read-only file system; name a folder on a disk that can be written"] * 3
    assert left == ["old", "old"]
