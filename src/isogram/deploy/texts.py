"""What `init` writes beside keys: systemd units, a site's file to fill in, a few lines for its operator."""

from isogram.deploy.consortium import Consortium, SiteEntry
from isogram.deploy.layout import CONSORTIUM, SITE, STATE

HOME = "/opt/isogram"
"""Where units expect the folders that are handed out, and isogram itself in `venv`."""

_UNIT = """# Expects this folder at {root}, owned by the user isogram, and isogram in {home}/venv.
[Unit]
Description=Isogram {what}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
User=isogram
WorkingDirectory={root}
ExecStart={home}/venv/bin/isogram deploy {command}
Restart=always
RestartSec=10
# It stops its own processes: systemd asks it alone, and ends what is left.
KillMode=mixed
TimeoutStopSec=30
UMask=0077

# Nothing is reported or fetched while a federation runs.
Environment=FLWR_TELEMETRY_ENABLED=0
Environment=FLWR_DISABLE_UPDATE_CHECK=1
Environment=FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
Environment=RAY_USAGE_STATS_ENABLED=0
Environment=HF_HUB_OFFLINE=1
Environment=HF_HUB_DISABLE_TELEMETRY=1
Environment=PIP_NO_INDEX=1
Environment=HOME={root}/{state}
Environment=ISOGRAM_CACHE={root}/{state}/cache

# It reads what its user may read, and writes to one folder.
ProtectSystem=strict
ReadWritePaths={root}/{state}
ProtectHome=read-only
PrivateTmp=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
"""


def server_unit(consortium: Consortium) -> str:
    """The unit of the server's machine."""
    root = f"{HOME}/server"
    return _UNIT.format(
        what=f"server of {consortium.name}", root=root, home=HOME, command=f"server {root}", state=STATE
    )


def site_unit(consortium: Consortium, site: SiteEntry) -> str:
    """The unit of a site's machine."""
    root = f"{HOME}/{site.name}"
    what, command = f"node {site.name} of {consortium.name}", f"node {root}/{SITE}"
    return _UNIT.format(what=what, root=root, home=HOME, command=command, state=STATE)


def site_file(site: SiteEntry) -> str:
    """What the operator fills in."""
    top = f"""# What the node of {site.name} reads, and where it writes. Paths count from this file's folder.
# Then: isogram deploy check {SITE}

name = "{site.name}"  # as in {CONSORTIUM}
anchors = "FILL-IN/anchors"  # this site's copy of the anchor set: the folder with anchors.csv
state = "{STATE}"  # the only folder that the node writes to; private
device = "cpu"  # or cuda
threads = 1  # of the CPU; the same number gives the same bits
"""
    return top + "".join(
        f"""
[[nodes]]
modality = "{modality}"
data = "FILL-IN/{modality}"  # folder, CSV, TSV, Parquet or FASTA; read where it is, never sent
# column = "text"  # of paths, text or sequences
# id = "number"  # column of distinct row ids
# label = "topic"  # column of classes; of a folder: "folder"
# group = "patient"  # column of rows that stay together; of a folder: "folder"
"""
        for modality in site.modality
    )


def site_readme(consortium: Consortium, site: SiteEntry) -> str:
    """Five lines for the operator."""
    keys = " and ".join(f"{modality}.key" for modality in site.modality)
    address, unit, place = consortium.server.address, f"isogram-{site.name}", f"{HOME}/{site.name}"
    lines = [
        f"Install isogram in {HOME}/venv: `{HOME}/venv/bin/pip install '.[deploy]'` in its clone. Put this folder at "
        f"{place}, owned by a user `isogram`.",
        f"Fill in {SITE}: where your data and your copy of the anchor set lie. Nothing else is yours to write.",
        f"Say `isogram deploy check {SITE}` as that user until nothing is wrong. The node connects to {address}; "
        "nobody connects to it.",
        f"Start it: copy isogram.service to /etc/systemd/system/{unit}.service; `systemctl enable --now {unit}`.",
        f"{keys} says who you are: keep it here, for that user alone. If others may have it, tell the coordinator.",
    ]
    numbered = "".join(f"{number}. {line}\n" for number, line in enumerate(lines, 1))
    return f"# {site.name} in {consortium.name}\n{numbered}"
