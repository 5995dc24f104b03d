"""What lies where in the folders that a coordinator hands out."""

from dataclasses import dataclass
from pathlib import Path

CONSORTIUM = "consortium.toml"
SITE = "site.toml"
STATE = "state"
AUTHORITY = "ca.crt"


@dataclass(frozen=True)
class ServerFolder:
    """The folder of the server's machine: no private key but the server's own is in it."""

    path: Path

    @property
    def consortium(self) -> Path:
        """Who takes part."""
        return self.path / CONSORTIUM

    @property
    def authority(self) -> Path:
        """The authority's certificate, which every site has too."""
        return self.path / AUTHORITY

    @property
    def certificate(self) -> Path:
        """For the server's address and for this machine itself."""
        return self.path / "server.crt"

    @property
    def key(self) -> Path:
        """Private."""
        return self.path / "server.key"

    @property
    def state(self) -> Path:
        """The only folder that the server writes to."""
        return self.path / STATE

    @property
    def public_keys(self) -> Path:
        """A folder for each site."""
        return self.path / "nodes"

    def public_key(self, site: str, modality: str) -> Path:
        """Of a site's node; OpenSSH format."""
        return self.public_keys / site / f"{modality}.pub"


@dataclass(frozen=True)
class SiteFolder:
    """The folder of one site's operator."""

    path: Path

    @property
    def consortium(self) -> Path:
        """Who takes part, and where the server is."""
        return self.path / CONSORTIUM

    @property
    def authority(self) -> Path:
        """What the server's certificate is trusted by."""
        return self.path / AUTHORITY

    @property
    def site(self) -> Path:
        """The operator's own file."""
        return self.path / SITE

    def key(self, modality: str) -> Path:
        """Private key of the node that holds this modality; OpenSSH format."""
        return self.path / f"{modality}.key"


@dataclass(frozen=True)
class ConsortiumFolder:
    """All of it, at the coordinator."""

    path: Path

    @property
    def authority(self) -> Path:
        """The authority's certificate."""
        return self.path / "ca" / AUTHORITY

    @property
    def authority_key(self) -> Path:
        """Private, and kept offline: whoever has it can pass for the server."""
        return self.path / "ca" / "ca.key"

    @property
    def server(self) -> ServerFolder:
        """To hand to the server's machine."""
        return ServerFolder(self.path / "server")

    def site(self, name: str) -> SiteFolder:
        """To hand to this site."""
        return SiteFolder(self.path / "sites" / name)


def kind_of_folder(path: Path) -> str:
    """Which of the folders that are handed out it is, in words; "" if none."""
    if ConsortiumFolder(path).server.path.is_dir():
        return "the coordinator's whole folder"
    if SiteFolder(path).site.exists():
        return "a site's folder"
    if ServerFolder(path).key.exists() or ServerFolder(path).public_keys.is_dir():
        return "a server's folder"
    return ""
