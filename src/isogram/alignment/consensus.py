"""One matrix over all anchors from the nodes' shrunk Grams, also where a node holds only some of the anchors."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from isogram.alignment.gram import center
from isogram.errors import AnchorError


def consensus(
    matrices: Sequence[Float[Tensor, "_ _"]],
    indices: Sequence[Int[Tensor, " _"]],
    n_anchors: int,
    quality: Sequence[Float[Tensor, " _"]] | None = None,
    *,
    connected: bool = True,
) -> Float[Tensor, "{n_anchors} {n_anchors}"]:
    """Quality-weighted mean of the nodes' M over the nodes that hold both anchors of a pair.

    M_ab = sum_n q_na q_nb M_n,ab / sum_n q_na q_nb. A pair that no node holds is 0. The mean over differing sets of
    nodes is neither centred nor positive semi-definite, so it is centred again and negative eigenvalues are clipped.

    Args:
        matrices: per node, M_n over the anchors it holds.
        indices: per node, the positions of those anchors in the anchor set.
        n_anchors: K.
        quality: per node, a weight in (0, 1] per anchor it holds; 1 everywhere if not given.
        connected: insist that every anchor is held and that chains of shared anchors connect all of them, without
            which the frame would be several unrelated ones. The feature metric does not need it.

    Raises:
        AnchorError: an anchor that no node holds, or groups of anchors that no node connects.
    """
    return consensus_of_sums(*pair_sums(matrices, indices, n_anchors, quality), connected=connected)


def pair_sums(
    matrices: Sequence[Float[Tensor, "_ _"]],
    indices: Sequence[Int[Tensor, " _"]],
    n_anchors: int,
    quality: Sequence[Float[Tensor, " _"]] | None = None,
) -> tuple[Float[Tensor, "{n_anchors} {n_anchors}"], Float[Tensor, "{n_anchors} {n_anchors}"]]:
    """Both sums of `consensus`, over and under the line, which add up over nodes; arguments as there."""
    total = torch.zeros(n_anchors, n_anchors, dtype=torch.float64)
    weight = torch.zeros_like(total)
    for position, (matrix, index) in enumerate(zip(matrices, indices, strict=True)):
        q = torch.ones(len(index), dtype=torch.float64) if quality is None else quality[position].double()
        pair = torch.outer(q, q)
        at = (index[:, None], index[None, :])
        total[at] += pair * matrix.double()
        weight[at] += pair
    return total, weight


def consensus_of_sums(
    total: Float[Tensor, "K K"], weight: Float[Tensor, "K K"], *, connected: bool = True
) -> Float[Tensor, "K K"]:
    """The consensus of `pair_sums`, added up over all nodes; errors as `consensus`."""
    if connected:
        _check_connected(weight)
    mean = center(torch.where(weight > 0, total / weight.clamp_min(1e-300), total))
    values, vectors = torch.linalg.eigh((mean + mean.T) / 2)
    return (vectors * values.clamp_min(0)) @ vectors.T


def _check_connected(weight: Float[Tensor, "K K"]) -> None:
    missing = torch.nonzero(weight.diagonal() == 0).flatten().tolist()
    if missing:
        raise AnchorError(f"no node holds anchors {missing[:10]} (of {len(missing)}); leave them out of the anchor set")
    count, label = connected_components((weight > 0).numpy(), directed=False)
    if count > 1:
        groups = [torch.nonzero(torch.as_tensor(label == g)).flatten().tolist() for g in range(count)]
        shown = "; ".join(f"{group[:5]}{'...' if len(group) > 5 else ''}" for group in groups[:5])
        raise AnchorError(
            f"the anchors fall into {count} groups that no node connects ({shown}); "
            "add a node, or anchors at some node, that bridge them"
        )
