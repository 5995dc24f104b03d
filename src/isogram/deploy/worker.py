"""The warm worker of one node: its data and trunk, loaded once; its state on this site's disk.

Run as a program by `isogram deploy node`: `python -m isogram.deploy.worker SITE.TOML NODE SOCKET`.
"""

import json
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from isogram.checkpoint import final_model
from isogram.config import Config
from isogram.data import FederatedData
from isogram.data.silos.load import load_silos
from isogram.deploy.site import Site, read_site
from isogram.egress import Line, Oversight
from isogram.errors import IsogramError
from isogram.federation import Federation, gather
from isogram.files import append_lines, make_folder, write_atomic
from isogram.local import Node
from isogram.local.respond import Responder, settings_of
from isogram.messages import Down, Ledger
from isogram.noise import secret_of
from isogram.run_folder import EGRESS, MODEL, NOISE

Told = Callable[[str, int, int], None]


def load(site: Site, node: str, told: Told | None = None) -> tuple[Config, FederatedData]:
    """A node's settings and data: its own rows, the anchors of its modality, and how many anchors there are in all.

    Raises:
        DataError, ConfigError: as `data.silos.load.load_silos` does.
    """
    own, config = site.nodes[node], site.config
    everywhere = site.consortium.run.silos.modalities
    silos = config.silos.model_copy(update={"nodes": (own,), "modalities": everywhere})
    elsewhere = [name for name in site.consortium.modalities if name != own.modality]
    data = load_silos(
        silos,
        anchors=config.anchors,
        seed=config.seed,
        private=bool(config.privacy.epsilon),
        told=told,
        elsewhere=elsewhere,
    )
    return config, replace(data, nodes=(replace(data.nodes[0], name=node),))


def responder(config: Config, data: FederatedData, folder: Path) -> Responder:
    """What answers the server for the one node of these data; it keeps its state in `folder`, by run."""
    (own,) = data.nodes

    def make(run: str) -> Node:
        place = folder / run
        secret = _secret(place / NOISE, config) if config.privacy.epsilon else None

        def log(lines: Sequence[Line]) -> None:
            make_folder(place)
            append_lines(place / EGRESS, [json.dumps(asdict(line)) for line in lines])

        return gather(data, config, run, secret, oversight=Oversight(log=log)).nodes[0]

    def finish(node: Node, down: Down, place: Path) -> None:
        save(node, down, data, config, place / MODEL)
        (place / NOISE).unlink(missing_ok=True)

    return Responder(own.name, make, settings_of(config), folder, finish, data.anchors.source)


def save(node: Node, down: Down, data: FederatedData, config: Config, path: Path) -> None:
    """The node's own model, for `isogram embed`, `search`, `classify` and `serve` at this site."""
    assert node.taken is not None and node.taken.frame is not None
    fed = Federation(
        config,
        (node,),
        node.n_anchors,
        node.anchor_hash,
        node.n_classes,
        Ledger(),
        frame=node.taken.frame.double(),
        head=None if down.head is None else down.head.double(),
        adapters={} if node.model is None else node.shared.state(),
        round=max(0, down.round - 2),
        run=node.run,
    )
    final_model(fed, data).of_run(node.run, adapters=config.average.across == "all").save(path)


def _secret(path: Path, config: Config) -> bytes:
    """Of the noise in one run: drawn when the run begins, the same whenever it goes on."""
    if not path.exists():
        make_folder(path.parent)
        write_atomic(path, secret_of(config.privacy).hex().encode(), mode=0o600)
    return bytes.fromhex(path.read_text())


def main(arguments: Sequence[str]) -> None:
    """Answer until the process is stopped."""
    from isogram.engine.worker import serve

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    aloud = logging.StreamHandler(sys.stdout)  # to the operator, see `running.run_node`; all else goes to the log
    logging.getLogger("isogram.local.respond").addHandler(aloud)
    site_file, node, socket = arguments
    site = read_site(Path(site_file))
    torch.set_num_threads(site.threads)
    config, data = load(site, node)
    logging.info("node %s: %d rows, %d anchors", node, len(data.nodes[0].tokens), len(data.anchors))
    serve(responder(config, data, site.state / node.replace("/", "-")), Path(socket), threading.Event())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except IsogramError as error:
        sys.exit(f"{error}")
