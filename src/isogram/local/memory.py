"""What a node would lose if its process died, as tensors; and a fresh node brought back to where another was."""

from collections.abc import Mapping

from torch import Tensor, tensor

from isogram.local.training import Node
from isogram.messages import Down
from isogram.model import SharedModel

_ADAPTERS, _HOME = "adapters/", "home/"


def node_state(node: Node) -> dict[str, Tensor]:
    """Weights of anchors and features, frame and class directions as they came, and what training has changed."""
    found = {"metric": node.metric, "quality": node.quality}
    if node.taken is not None:
        found |= {"frame": node.taken.frame, "fit": tensor(node.taken.fit)}
    if node.learnt is not None:
        found["head"] = node.learnt.head
    if node.model is not None:
        found |= {_ADAPTERS + name: value for name, value in node.shared.state().items()}
        found |= {_HOME + name: value for name, value in node.model.home.items()}
        found |= {"change": node.model.projector.change, "seen": node.last_seen}
    return {name: value for name, value in found.items() if value is not None}


def restore_node(node: Node, state: Mapping[str, Tensor]) -> None:
    """Bring a node that has done nothing to the state that `node_state` was taken in; to the same bits."""
    node.metric, node.quality = state.get("metric"), state.get("quality", node.quality)
    if "frame" in state:
        node.take_frame(_down(node, frame=state["frame"], fit=int(state["fit"])))
    if "head" in state:
        node.learn_classes(_down(node, head=state["head"]))
    if "change" in state:
        start_alone(node)
        assert node.model is not None
        node.shared.load(_under(_ADAPTERS, state))
        node.model.set_own(_under(_HOME, state), state["change"])
        node.last_seen = state["seen"].to(node.device)


def start_alone(node: Node) -> None:
    """Start training with a model that no other node of this process has."""
    assert node.target is not None, "fit the node first"
    node.start_training(SharedModel(node.config.model, node.target.shape[1]))


def _down(node: Node, **fields: object) -> Down:
    return Down(node=node.name, round=1, anchor_hash=node.anchor_hash, run=node.run, **fields)  # type: ignore[arg-type]


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
