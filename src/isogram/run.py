"""One run in a folder of its own: diagnosed, aligned, trained, evaluated, reported; stopped anywhere, it goes on.

The folder's files appear whole or not at all. A round is complete once its checkpoint exists; what was appended to the
logs after the last checkpoint is cut off when the run goes on, but for what left the nodes: nothing takes that back.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from isogram import federation
from isogram.accountant import budget_of
from isogram.alignment import DEFAULT_RANK
from isogram.bench import Row
from isogram.config import Config
from isogram.data import FederatedData, check_data, open_data
from isogram.doctor import Diagnosis, examine
from isogram.egress import Ask
from isogram.errors import ConfigError, DataError, IsogramError, RefusedError, RunError
from isogram.evaluation import Scope, scope
from isogram.files import make_folder
from isogram.model import SharedModel
from isogram.progress import Watch
from isogram.recorder import Recorder, spent_privacy, summary_writer
from isogram.report.page import write_page
from isogram.run_folder import (
    CHECKPOINTS,
    CONFIG,
    DOCTOR,
    STATE,
    begin,
    changes,
    check_folder,
    check_noise,
    fingerprint,
    locked,
    read_json,
)


@dataclass(frozen=True)
class Outcome:
    """What a run left: its folder, what the doctor said, and its table with notes and what that is measured on.

    resumed_at: complete rounds that it went on from, None if it began anew. not_run: methods that its table lacks, and
    why.
    """

    folder: Path
    diagnosis: Diagnosis
    rows: tuple[Row, ...]
    scope: Scope
    notes: tuple[str, ...]
    rounds: int
    resumed_at: int | None
    not_run: dict[str, str]


def diagnose(data: FederatedData, config: Config, *, force: bool = False) -> Diagnosis:
    """The doctor's findings, if they allow a run.

    Raises:
        DataError: the silos cannot be aligned.
        RefusedError: they should not be, and `force` is not given.
    """
    diagnosis = examine(data, config)
    told = [f"{f.where}: {f.what}; {f.remedy}" for f in (*diagnosis.errors, *diagnosis.refusals)]
    if diagnosis.errors:
        raise DataError(*told)
    if diagnosis.refusals and not force:
        raise RefusedError(*told)
    return diagnosis


def run(config: Config, watch: Watch, *, resume: bool = False, force: bool = False, ask: Ask | None = None) -> Outcome:
    """Run, or go on with a run, in `config.output.folder / config.name`.

    With `resume`, from the last complete round on, to the same bits as without the interruption; from the beginning if
    there is nothing yet. With `ask`, a node's first message of a kind leaves it if the answer is yes.

    Raises:
        RunError: the folder holds a run already, or one of another configuration, data or process.
        ConfigError, DataError, RefusedError: wrong settings or data; nothing is written then.
        EgressError: `egress.allow` lacks what a node has to send, and nothing is written; or the answer is no.
        StorageError: the folder cannot be written; what is complete stays.
    """
    torch.set_num_threads(config.threads)
    check_device(config.train.device)
    if config.output.tensorboard:
        summary_writer()  # told now rather than after the alignment, if it is missing
    budget_of(config)  # so is a missing Opacus, or a privacy that no noise gives
    folder = config.output.folder / config.name
    try:
        check_folder(folder, config, resume)
    except RunError:
        _check_settings(config)  # else they are told once another name has been found
        raise
    watch.say("reading data")
    data = open_data(config, watch.part)
    if not (folder / CONFIG).exists():
        watch.say("asking the doctor")
        diagnosis = diagnose(data, config, force=force)
        federation.gather(data, config)  # fields that may not leave a node are told before anything is written
        if config.train.rounds and config.model.trunk != "none":
            watch.say("looking at the trunk")
            SharedModel(
                config.model, min(config.align.rank or DEFAULT_RANK, len(data.anchors) - 1)
            )  # wrong trunks, targets, ranks and checkpoints are told before anything is written
        make_folder(folder / CHECKPOINTS)
    with locked(folder):
        check_folder(folder, config, resume)  # again: another process may have been faster
        begun = (folder / CONFIG).exists()
        if not begun:
            begin(folder, config, data, diagnosis)
        elif read_json(folder / STATE)["fingerprint"] != fingerprint(data):
            raise RunError(f"{folder} was made with other data than {config.data} holds now; use another name")
        else:
            check_noise(folder, config)
            for change in changes(folder, config):
                watch.say(f"{change}: the last bits may differ from an uninterrupted run's")
        diagnosis = Diagnosis.from_json(read_json(folder / DOCTOR))
        recorder = Recorder(folder, config, data, ask)
        try:
            fed, resumed_at = recorder.aligned(watch)
            fed = recorder.trained(fed, watch)
            rows = recorder.evaluated(fed, watch)
        except BaseException:
            with suppress(IsogramError):  # what stopped the run is the news
                write_page(folder)
            raise
        watch.say(f"writing {write_page(folder)}")
    notes = data.notes if fed.budget is None else (*data.notes, spent_privacy(fed))
    resumed = resumed_at if begun else None
    return Outcome(folder, diagnosis, rows, scope(data), notes, config.train.rounds, resumed, recorder.not_run)


def _check_settings(config: Config) -> None:
    """Whether a run could begin in another folder, as far as that is told in seconds.

    Raises:
        ConfigError, DataError: it could not.
    """
    check_data(config)
    if config.train.rounds and config.model.trunk != "none":
        SharedModel(config.model, 1)  # of how many coordinates depends on the anchors


def check_device(name: str, key: str = "train.device") -> None:
    """Use a device of PyTorch's once.

    key: the setting that names it.

    Raises:
        ConfigError: it is not there, or cannot be used.
    """
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # PyTorch raises any of these
        reason = str(error).splitlines()[0][:100]
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        usable = " or ".join(["cpu", *(one for one, usable in there.items() if usable)])
        raise ConfigError(f"{key} = {name!r} cannot be used here ({reason}); use {usable}") from error
