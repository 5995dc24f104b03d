"""All that a consortium's machines are handed, from its one file; what is there already is kept."""

import os
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from isogram.deploy.consortium import Consortium, read_consortium, read_toml
from isogram.deploy.keys import (
    check_authority,
    check_node,
    check_public,
    check_server,
    make_authority,
    make_node,
    make_server,
    public_of,
    valid_until,
)
from isogram.deploy.layout import STATE, ConsortiumFolder
from isogram.deploy.texts import server_unit, site_file, site_readme, site_unit
from isogram.errors import ConfigError, StorageError
from isogram.files import write_atomic, writing

_PRIVATE, _PUBLIC = 0o600, 0o644


@dataclass
class Done:
    """What `init` did; paths are relative to the folder.

    made: new. kept: keys and certificates as they were. updated: copies of the consortium's file that were older.
    replaced: keys and certificates made anew by force, moved to `aside`. notes: what else is to be known.
    """

    folder: ConsortiumFolder
    consortium: Consortium
    made: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    aside: str = ""
    notes: list[str] = field(default_factory=list)


def init(file: Path, out: Path | None = None, *, force: bool = False, now: datetime | None = None) -> Done:
    """Write a consortium's folder, or add what it lacks: all of it, or on an error nothing.

    A key is made once: what is there stays, also where a site's folder was handed over and its private key is no
    longer here. A new site in the file gets a folder, and every copy of the file is brought up to date.

    Args:
        file: the coordinator's.
        out: the folder; called as the consortium and beside the file if it is not said.
        force: make all keys and certificates anew; those that were there are moved aside.
        now: with a time zone; for certificates.

    Raises:
        ConfigError: what is wrong with the file; or with keys and certificates that are there, all of it.
        StorageError: the folder cannot be written; it is as it was.
    """
    consortium = read_consortium(file)
    text = file.read_bytes()
    folder = ConsortiumFolder((file.parent / consortium.name if out is None else out).absolute())
    now = now or datetime.now(UTC)
    root = folder.path
    if root.exists() and not root.is_dir():
        raise ConfigError(f"{root} is a file; name another folder by --out")
    if not root.exists() or not any(root.iterdir()):
        plan = _Plan(folder, consortium, text, force, now)
        _write_whole(plan)
        return plan.done
    if not folder.authority.exists() and not folder.server.path.exists():
        raise ConfigError(f"{root} is not empty and no consortium's folder; name another one by --out")
    with writing(root), ExitStack() as stack:
        try:
            stack.enter_context(FileLock(root / ".lock", timeout=0))
        except Timeout:
            raise ConfigError(f"another `isogram deploy init` is writing {root}; wait for its end") from None
        plan = _Plan(folder, consortium, text, force, now)
        _add(plan, now)
    return plan.done


class _Plan:
    """Files to write: relative path -> content and mode. `done.notes` and the rest say what will have happened."""

    def __init__(
        self, folder: ConsortiumFolder, consortium: Consortium, text: bytes, force: bool, now: datetime
    ) -> None:
        self.done = Done(folder, consortium)
        self.files: dict[str, tuple[bytes, int]] = {}
        self._root, self._force, self._problems = folder.path, force, list[str]()
        if not force and folder.authority.exists() and not folder.server.path.exists():
            raise ConfigError(
                f"{folder.path} has an authority and no server/, where the public keys of all sites are; put it back, "
                "or make all keys anew by --force"
            )
        before = (
            read_toml(folder.server.consortium).get("name") if folder.server.consortium.exists() else consortium.name
        )
        if before != consortium.name:
            raise ConfigError(
                f"{folder.path} is the folder of {before!r}, not of {consortium.name!r}; name another by --out"
            )
        authority, signer = self._authority(folder, consortium, now)
        self._server(folder, consortium, authority, signer, now)
        new = self._nodes(folder, consortium)
        if self._problems:
            raise ConfigError(*self._problems)
        self._copy(folder.server.authority, authority)
        self._copy(folder.server.consortium, text)
        self._text(folder.server.path / "isogram.service", server_unit(consortium))
        for site in consortium.sites:
            place = folder.site(site.name)
            if site.name not in new and not place.path.exists():
                self.done.notes.append(f"{site.name} has its keys; hand it the new {folder.server.consortium.name}")
                continue
            self._copy(place.authority, authority)
            self._copy(place.consortium, text)
            if site.name in new and place.site.exists() and not force:
                self.done.notes.append(f"{place.site} is kept as it is: see that it has [[nodes]] for every modality")
            self._text(place.site, site_file(site))
            self._text(place.path / "isogram.service", site_unit(consortium, site))
            self._text(place.path / "README.md", site_readme(consortium, site))
        for gone in self._gone(folder, consortium):
            self.done.notes.append(f"{gone} is not in the consortium any more: its keys stay here and are not used")

    def _authority(self, folder: ConsortiumFolder, consortium: Consortium, now: datetime) -> tuple[bytes, bytes | None]:
        """Certificate, and private key if it is here."""
        certificate, key = folder.authority, folder.authority_key
        if self._force or not (certificate.exists() or folder.server.authority.exists()):
            if key.exists() and not self._force:
                self._problems.append(
                    f"{key} has lost its {certificate.name}; put it back, or make all anew by --force"
                )
            private, public = make_authority(consortium.name, now)
            self._key(key, private)
            self._key(certificate, public, _PUBLIC)
            self.done.notes.append(f"authority certificate valid until {valid_until(public)}")
            return public, private
        if not certificate.exists():  # the whole of ca/ is where it should be: offline
            certificate = folder.server.authority
        here = key.exists()
        self.done.notes += check_authority(certificate, key if here else None, now, self._problems)
        if certificate == folder.authority:
            self._kept(certificate)
        if here:
            self._kept(key)
        return certificate.read_bytes(), key.read_bytes() if here else None

    def _server(
        self, folder: ConsortiumFolder, consortium: Consortium, authority: bytes, signer: bytes | None, now: datetime
    ) -> None:
        certificate, key, host = folder.server.certificate, folder.server.key, consortium.server.host
        if not self._force and (certificate.exists() or key.exists()):
            source = folder.server.authority if folder.server.authority.exists() else folder.authority
            self.done.notes += check_server(certificate, key, source, host, now, self._problems)
            self._kept(certificate)
            self._kept(key)
        elif signer is None:
            self._problems.append(
                f"a server's certificate is to be made, and {folder.authority_key} is not here to sign it; put it back "
                "from where it is kept, for this one command"
            )
        elif not self._problems:
            private, public = make_server(signer, authority, consortium.name, host, now)
            self._key(key, private)
            self._key(certificate, public, _PUBLIC)
            self.done.notes.append(f"server certificate valid until {valid_until(public)}")

    def _nodes(self, folder: ConsortiumFolder, consortium: Consortium) -> set[str]:
        """Sites with a new key."""
        new = set()
        for site in consortium.sites:
            for modality in site.modality:
                key, public = folder.site(site.name).key(modality), folder.server.public_key(site.name, modality)
                comment = f"{site.name}/{modality}@{consortium.name}"
                if not self._force and public.exists():
                    if key.exists():
                        check_node(key, public, self._problems)
                        self._kept(key)
                    else:
                        check_public(public, self._problems)
                    self._kept(public)
                elif not self._force and key.exists():  # an interrupted init had come as far as this
                    before = len(self._problems)
                    check_node(key, None, self._problems)
                    self._kept(key)
                    if len(self._problems) == before:
                        self._key(public, public_of(key.read_bytes(), comment), _PUBLIC)
                else:
                    new.add(site.name)
                    private, open_one = make_node(comment)
                    self._key(key, private)
                    self._key(public, open_one, _PUBLIC)
        return new

    def _gone(self, folder: ConsortiumFolder, consortium: Consortium) -> list[str]:
        used = {(site.name, modality) for site in consortium.sites for modality in site.modality}
        there = sorted((folder.server.path / "nodes").glob("*/*.pub"))
        return [f"{one.parent.name} ({one.stem})" for one in there if (one.parent.name, one.stem) not in used]

    def _key(self, path: Path, data: bytes, mode: int = _PRIVATE) -> None:
        name = self._name(path)
        (self.done.replaced if path.exists() else self.done.made).append(name)
        self.files[name] = data, mode

    def _copy(self, path: Path, data: bytes) -> None:
        """A file that is the same everywhere."""
        there = path.read_bytes() if path.exists() else None
        if there != data:
            (self.done.made if there is None else self.done.updated).append(self._name(path))
            self.files[self._name(path)] = data, _PUBLIC

    def _text(self, path: Path, text: str) -> None:
        """A file that is its reader's own once it is written."""
        if not path.exists():
            self.done.made.append(self._name(path))
            self.files[self._name(path)] = text.encode(), _PUBLIC

    def _kept(self, path: Path) -> None:
        self.done.kept.append(self._name(path))

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()


def _stage(plan: _Plan, root: Path) -> None:
    for name, (data, mode) in plan.files.items():
        _folders(root, Path(name).parent)
        write_atomic(root / name, data, mode)
        (root / name).chmod(mode)  # whatever the process's umask is


def _folders(root: Path, inner: Path) -> list[Path]:
    """Private folders from `root` down; those that were made."""
    made = []
    for folder in [*reversed([root / one for one in inner.parents][:-1]), root / inner]:
        with writing(folder):
            if not folder.exists():
                folder.mkdir(mode=0o700)
                made.append(folder)
    return made


def _write_whole(plan: _Plan) -> None:
    root = plan.done.folder.path
    with writing(root.parent):
        root.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        _stage(plan, part)
        for inner in ("server", *(f"sites/{site.name}" for site in plan.done.consortium.sites)):
            _folders(part, Path(inner, STATE))
        with writing(root):
            if root.exists():
                root.rmdir()
            part.rename(root)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _add(plan: _Plan, now: datetime) -> None:
    """Files move into place one by one, and back if one of them cannot; a killed process is completed by the next."""
    root, done = plan.done.folder.path, plan.done
    for left in [*root.glob(".new-*"), *root.glob(".old-*")]:
        shutil.rmtree(left)
    done.aside = f"replaced-{now:%Y%m%d-%H%M%S}" if done.replaced else ""
    old = root / (done.aside or f".old-{os.getpid()}")
    if old.exists():
        raise StorageError(f"{old} exists already; move it away")
    staged = Path(tempfile.mkdtemp(prefix=".new-", dir=root))
    places = [
        "server",
        *(f"sites/{one.name}" for one in done.consortium.sites if done.folder.site(one.name).path.exists()),
    ]
    try:
        _stage(plan, staged)
        with ExitStack() as undo:
            for folder in _folders(root, Path(old.name)):
                undo.callback(folder.rmdir)
            for name in plan.files:
                _move_in(staged / name, root / name, old / name, root, undo)
            for inner in places:
                _folders(root, Path(inner, STATE))
            undo.pop_all()
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    if not done.aside:
        shutil.rmtree(old, ignore_errors=True)


def _move_in(new: Path, place: Path, old: Path, root: Path, undo: ExitStack) -> None:
    for folder in _folders(root, place.parent.relative_to(root)):
        undo.callback(folder.rmdir)
    with writing(place):
        if place.exists():
            for folder in _folders(root, old.parent.relative_to(root)):
                undo.callback(folder.rmdir)
            place.rename(old)
            undo.callback(old.rename, place)
        new.rename(place)
        undo.callback(place.unlink)
