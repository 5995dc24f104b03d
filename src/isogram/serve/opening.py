"""From what is named on the command line to a site: a run's folder, or a model and banks."""

from collections.abc import Callable, Sequence
from pathlib import Path

from isogram.config import SILOS, Config
from isogram.config_file import read_config
from isogram.data.sheets import Problems
from isogram.data.silos.manifest import read_manifest
from isogram.data.silos.sites import node_names
from isogram.errors import ConfigError, RunError
from isogram.inference import Bank, Model, Source
from isogram.run_folder import CONFIG, STATE, read_json
from isogram.serve import pictures
from isogram.serve.shelves import Told, banks
from isogram.serve.site import Site
from isogram.serve.standing import standing

PICTURES = "pictures"

_OF_SILOS = (
    "Ask in one modality, and see what is nearest to it in each. The model has been given no pair of items but its "
    "public anchors; here are all items of this run's nodes."
)
_OF_PICTURES = (
    "A picture, its name spoken in French, Spanish or Russian, and written in English: five silos, none of which has "
    "a thing that another one has. Here are things that none of them has seen. Ask by any, and find the others."
)
_OF_BANKS = "Ask in one modality, and see what is nearest to it in each of the banks."


def of_run(run: Path, told: Told, said: Callable[[str], None], *, private: bool = False) -> Site:
    """The site of a complete run on silos or talking pictures; its banks are made if they are not there.

    Args:
        run: its folder.
        told: is called as banks are built.
        said: is given a line about each bank that was damaged, and notes of what the items were found among.
        private: of talking pictures, also rows that were trained on.

    Raises:
        RunError: no run, or it is not complete.
        ConfigError: a run on other data, or a library is missing.
        DataError: the items are not what they should be.
    """
    if not run.exists():
        raise RunError(f"there is no folder {run}; name a run's, or a model file and banks of `isogram embed`")
    if not (run / CONFIG).exists():
        raise RunError(f"{run} holds no run; name a run's folder, or a model file and banks of `isogram embed`")
    if not read_json(run / STATE)["complete"]:
        raise RunError(f"{run} is not complete; finish it: isogram run {run / CONFIG} --resume")
    config = read_config(run / CONFIG)
    if config.data not in (SILOS, PICTURES):
        raise ConfigError(
            f"{run} is a run on {config.data}, whose rows are numbers that nobody can look at; name a run on silos or "
            "pictures, or a model and banks: isogram serve MODEL BANK..."
        )
    model = Model.load(run)
    shelves = _of_silos(model, config) if config.data == SILOS else pictures.shelves(run, config, private=private)
    held = banks(run, model, shelves, told, said)
    for name, shelf in shelves.items():
        for note in shelf.notes:
            said(f"{name}: {note}")
    return Site(
        model,
        held,
        name="Talking pictures" if config.data == PICTURES else config.name,
        note=_OF_SILOS if config.data == SILOS else _OF_PICTURES,
        paired=config.data == PICTURES,
        standing=standing(run, model.saved.encoders),
    )


def _of_silos(model: Model, config: Config) -> dict[str, Source]:
    problems, found = Problems(), {}
    for name, node in node_names(config.silos.nodes).items():
        manifest = read_manifest(node, model.encoder(name), problems)
        found[name] = Source.of(manifest)
    problems.stop()
    return found


def of_banks(model: Path, files: Sequence[Path]) -> Site:
    """The site of a model and the banks that it embedded, of all nodes or of one alone.

    Raises:
        DataError: no model, or a bank that is none of it; all of them at once.
    """
    loaded = Model.load(model)
    return Site(loaded, Bank.load_all(files, loaded), name=model.stem, note=_OF_BANKS)
