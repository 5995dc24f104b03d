"""What the settings say of silos before any data are opened: who holds what, and how each modality is read."""

from collections import Counter
from collections.abc import Sequence

from isogram.config import ModalityConfig, SiloNode, SilosConfig
from isogram.data.anchor_set import AnchorTable, read_anchor_set
from isogram.data.modalities.encode import with_columns
from isogram.data.modalities.encoders import check_encoder
from isogram.data.sheets import Problems, meant
from isogram.errors import ConfigError, DataError


def node_names(nodes: Sequence[SiloNode]) -> dict[str, SiloNode]:
    """Name of each federated node -> its entry: of a site with several modalities "NAME/MODALITY"."""
    held = Counter(node.name for node in nodes)
    return {node.name if held[node.name] == 1 else f"{node.name}/{node.modality}": node for node in nodes}


def of_sites(nodes: Sequence[SiloNode]) -> dict[str, dict[str, SiloNode]]:
    """Site -> its federated nodes by their names."""
    found: dict[str, dict[str, SiloNode]] = {}
    for name, node in node_names(nodes).items():
        found.setdefault(node.name, {})[name] = node
    return found


def check_settings(silos: SilosConfig, problems: Problems, elsewhere: Sequence[str] = ()) -> None:
    """What is wrong with the settings by themselves; elsewhere: modalities that other sites hold."""
    pairs = Counter((node.name, node.modality) for node in silos.nodes)
    twice = [f"{name!r} with {modality!r}" for (name, modality), times in pairs.items() if times > 1]
    problems.some(
        "silos.nodes stand twice:", twice, "give each site and modality one entry, or sites names of their own"
    )
    if not twice and len(node_names(silos.nodes)) < len(silos.nodes):
        problems.append("silos.nodes: a site is called as a node of another one, SITE/MODALITY; rename it")
    held = {node.modality for node in silos.nodes}
    for name in silos.modalities:
        if name not in held and name not in elsewhere:
            told = meant(name, sorted(held), "they hold")
            problems.append(f"silos.modalities.{name}: no node holds {name!r}; {told}")


def modality_configs(
    silos: SilosConfig, problems: Problems, elsewhere: Sequence[str] = ()
) -> tuple[dict[str, ModalityConfig], AnchorTable | None]:
    """How each modality is read, but for those of no kind; and the anchor set, None if its problems were noted.

    Columns that nobody chose are those of the anchors: all nodes of a modality have to give the same numbers.

    Args:
        silos: the settings.
        problems: gets what is wrong.
        elsewhere: modalities that other sites hold; the anchor set has them, too.
    """
    configs = known_kinds(silos, problems, elsewhere)
    if silos.anchors is None:
        problems.append("silos.anchors is not set; name the folder of the anchor set")
        return configs, None
    try:
        table = read_anchor_set(silos.anchors, configs)
    except DataError as error:
        problems += error.problems
        return configs, None
    return {name: with_columns(config, table.items[name].items) for name, config in configs.items()}, table


def known_kinds(silos: SilosConfig, problems: Problems, elsewhere: Sequence[str] = ()) -> dict[str, ModalityConfig]:
    """Settings of each modality, but for those of no kind or encoder, which are noted."""
    held = dict.fromkeys([*(node.modality for node in silos.nodes), *elsewhere])
    configs = {modality: silos.modality(modality) for modality in held}
    for modality, config in list(configs.items()):
        try:
            check_encoder(config)
        except ConfigError as error:
            problems += [f"modality {modality!r}: {line}" for line in error.problems]
            del configs[modality]
    return configs
