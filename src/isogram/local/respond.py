"""A node at the end of a wire: it answers requests, one after the other, and keeps on disk what it may not lose.

A request is done whole or not at all. What it leaves is on disk before it is answered, so that a process killed at any
moment goes on from the last answer; the same request again gets the same answer, and is not done twice. A server that
was stopped goes on from its last complete round (`Request.attempt`): a node that was further goes back to where it
stood before; so does one that comes back after the round, or the alignment, was made anew without it (`Request.made`).
"""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isogram.alignment import DEFAULT_RANK
from isogram.config import Config
from isogram.envelope import Part, Reply, Request
from isogram.errors import IsogramError, MessageError
from isogram.files import make_folder
from isogram.local.memory import node_state, restore_node, start_alone
from isogram.local.node import ways_of
from isogram.local.rosters import Rosters
from isogram.local.steps import STEPS, TRAINING
from isogram.local.training import Node, refresh_number
from isogram.messages import Down
from isogram.secure_sum import SpoiltError
from isogram.tensor_file import read_tensors, write_tensors
from isogram.validation import Expected, Shapes

log = logging.getLogger(__name__)

HELLO, FINISH = "hello", "finish"
"""Steps beside those of `local.steps`: who the node is; and that the run is over."""

STATE, BEFORE, REPLY = "state.safetensors", "before.safetensors", "reply"


def settings_of(config: Config) -> str:
    """Fingerprint of the settings that server and nodes need alike; what a site decides for itself is not in it."""
    found = config.model_dump(mode="json", exclude={"name", "threads", "output", "egress", "files", "silos", "data"})
    del found["train"]["device"]
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def gives(step: str) -> bool:
    """Whether a step has a message for an answer; the others are told, and can be told later."""
    return step != FINISH and bool(STEPS[step].gives)


class Responder:
    """Answers requests for one node.

    Args:
        name: of the node.
        make: makes it, with its data and nothing done, for a run of this name.
        settings: of `settings_of`.
        folder: where it keeps its state, a folder for each run.
        finish: is given the node at the end of a run, and its folder; None to keep nothing but the state.
        source: hash of what its anchors are made of, see `data.base.AnchorSet`.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[str], Node],
        settings: str,
        folder: Path,
        finish: Callable[[Node, Down, Path], None] | None = None,
        source: str = "",
    ) -> None:
        self.name, self._make, self._settings = name, make, settings
        self._folder, self._finish, self._source = folder, finish, source
        self._node: Node | None = None
        self._at: dict[str, Any] = {}
        self._reply = b""

    def __call__(self, blob: bytes) -> bytes:
        """The answer to a request, both as bytes; what is wrong with the request stands in it.

        Of what is wrong here alone it names the class, and this site's log has the rest.
        """
        run = ""
        try:
            request = Request.read(blob)
            run = request.run
            self._check(request)
            if [part.step for part in request.parts] == [HELLO]:
                return self._hello(request)
            return self._answer(request)
        except BaseException as error:
            if not isinstance(error, SpoiltError):  # another node's fault, found before anything was done
                self._node = None  # what was half done is forgotten: the state on disk stands
            if not isinstance(error, IsogramError):
                raise
            log.warning("run %s: %s", run or "?", error)
            # Texts of other errors name files of this site.
            own = isinstance(error, MessageError)
            why = str(error) if own else f"could not ({type(error).__name__}): the log there says why"
            return Reply(self.name, run, self._at.get("done", 0), refused=why).to_bytes()

    def _check(self, request: Request) -> None:
        if request.node != self.name:
            raise MessageError(f"this is node {self.name!r}, and the request is for {request.node!r}: check the keys")
        if request.settings != self._settings:
            raise MessageError(
                f"node {self.name!r} has settings {self._settings}, and the server {request.settings}: give both the "
                "same consortium file"
            )
        if not request.run or not request.run.replace("-", "").isalnum():
            raise MessageError(f"{request.run!r} is no name of a run: letters, digits and - make one")

    def _hello(self, request: Request) -> bytes:
        node = self._make(request.run) if self._node is None else self._node
        facts = {
            "modality": node.modality,
            "anchor_hash": node.anchor_hash,
            "source": self._source,
            "anchors": node.n_anchors,
            "classes": node.n_classes,
            "index": node.index.tolist(),
            "labelled": node.labelled,
        }
        return Reply(self.name, request.run, 0, facts=facts).to_bytes()

    def _answer(self, request: Request) -> bytes:
        node = self._open(request)
        sha = hashlib.sha256(request.to_bytes()).hexdigest()
        if self._at["sha"] == sha:
            return self._reply
        released = self._at["released"]
        # Under differential privacy nothing is released twice, but the same answer to the same request.
        node.released = frozenset(what for what, asked in released.items() if asked != sha)
        message = b""
        for part in request.parts:
            if part.step not in (*STEPS, FINISH):
                raise MessageError(f"node {self.name!r} knows no step {part.step!r}: install the server's version")
            if part.number <= self._at["done"]:
                if not gives(part.step):
                    continue
                raise MessageError(f"node {self.name!r} has done step {part.number} before: an old request, left out")
            message = self._do(node, part)
            self._at["done"] = part.number
        self._at["released"] = released | dict.fromkeys(node.released - released.keys(), sha)
        self._at["sha"] = sha
        self._reply = Reply(self.name, request.run, self._at["done"], message=message).to_bytes()
        self._keep(node)
        return self._reply

    def _do(self, node: Node, part: Part) -> bytes:
        if part.step in TRAINING and node.model is None:
            start_alone(node)
        if part.step == FINISH:
            down = self._read(node, part, "finish")
            if self._finish is not None:
                self._finish(node, down, self._folder / self._at["run"])
            return b""
        step = STEPS[part.step]
        down = self._read(node, part, step.takes) if step.takes else _bare(node, part.round)
        up = step.do(node, down, part.round).up
        return b"" if up is None else up.to_bytes()

    def _read(self, node: Node, part: Part, kind: str) -> Down:
        """The message of a part, if it is what this node expects."""
        align = node.config.align
        lengths = {"K": node.n_anchors, "C": node.n_classes, "k": len(node.index)}
        if node.target is not None or kind == "frame":
            lengths["r"] = min(align.rank or DEFAULT_RANK, node.n_anchors - 1)
        groups: dict[str, Shapes] = {}
        if kind in ("average", "bases"):
            if node.model is None:
                start_alone(node)
            groups["adapters"] = _shapes(node, kind, part.round)
        return Expected(
            kind,
            node.name,
            part.round,
            node.anchor_hash,
            lengths,
            align.rho,
            align.power,
            node.run,
            ways=len(ways_of(align)),
            groups=groups,
        ).read(Down, part.message)

    # What is kept.

    def _open(self, request: Request) -> Node:
        """The node as it is to be when this request comes.

        Raises:
            MessageError: a request of a round that is over, or of a run that this node was never in.
        """
        folder = self._folder / request.run
        if self._node is None or self._at.get("run") != request.run:
            self._load(request.run, folder / STATE)
        at = self._at
        if request.attempt < at["attempt"]:
            raise MessageError(f"node {self.name!r} has heard the server since it was started again: an old request")
        if request.stage < at["stage"]:
            raise MessageError(
                f"node {self.name!r} is in round {at['stage']}, and the request of round {request.stage}: a late or "
                "repeated one, left out; if the server has lost rounds, begin a new run"
            )
        if request.stage > at["stage"]:
            if at["done"] and request.made[at["stage"]] != at["attempt"]:
                self._go_back(folder)
        elif request.attempt > at["attempt"]:
            self._go_back(folder)
        if request.stage and not self._at["done"] and all(part.step != "frame" for part in request.parts):
            raise MessageError(
                f"node {self.name!r} was not in run {request.run!r} when it began, or has lost its state of it; it "
                "waits for the next run"
            )
        if request.stage > self._at["stage"]:
            self._keep_as(BEFORE, self._node, self._at | {"stage": request.stage})
        self._at |= {"stage": request.stage, "attempt": request.attempt}
        assert self._node is not None
        if self._node.rosters is None:
            self._node.rosters = Rosters(self._at["rosters"])
        return self._node

    def _go_back(self, folder: Path) -> None:
        """To before the stage that it was in last, of which the server kept nothing; what was released, was."""
        last = self._at
        self._load(last["run"], folder / BEFORE if last["stage"] else None)
        # A later stage is that of a node that was killed after it had gone back.
        if self._at["stage"] < last["stage"]:
            raise MessageError(f"node {self.name!r} has lost {BEFORE!r} of its state; it waits for the next run")
        self._at |= {"released": last["released"], "rosters": last["rosters"]}

    def _load(self, run: str, path: Path | None) -> None:
        self._node = self._make(run)
        self._at = {"run": run, "stage": 0, "attempt": 0, "done": 0, "sha": "", "released": {}, "rosters": {}}
        self._reply = b""
        if path is not None and path.exists():
            state, self._at = read_tensors(path)
            self._reply = state.pop(REPLY).numpy().tobytes()
            restore_node(self._node, state)

    def _keep(self, node: Node) -> None:
        self._keep_as(STATE, node, self._at)

    def _keep_as(self, name: str, node: Node | None, at: dict[str, Any]) -> None:
        assert node is not None
        folder = self._folder / self._at["run"]
        make_folder(folder)
        reply = torch.from_numpy(np.frombuffer(self._reply, dtype=np.uint8).copy())
        write_tensors(folder / name, node_state(node) | {REPLY: reply}, at)


def _bare(node: Node, round: int) -> Down:
    """A message without arrays, for a step that comes with none."""
    return Down(node=node.name, round=round, anchor_hash=node.anchor_hash, run=node.run)


def _shapes(node: Node, kind: str, round: int) -> Shapes:
    """Of what the server sends of the model at the end of a round."""
    shared, train = node.shared, node.config.train
    if kind == "average":
        return {name: tuple(value.shape) for name, value in shared.update(round - 1).items()}
    if train.refresh_basis != "gradient" or not refresh_number(train, round - 1):
        return {}
    return {f"{layer}.lora_A": (rank // 2, width) for layer, (rank, width) in shared.sketch_shapes().items()}
