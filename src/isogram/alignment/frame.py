"""The canonical frame: coordinates that mean the same at every node, from the consensus alone.

CKA does not change under rotation, so matching Grams leaves each node in a basis of its own; the frame fixes one.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from isogram.errors import AnchorError


def canonical_frame(consensus: Float[Tensor, "K K"], rank: int, power: float) -> Float[Tensor, "K r"]:
    """Anchor coordinates Y = U_r diag(w_r)^power from the r largest eigenpairs of the consensus.

    The power weighs directions by how far the nodes agree on them. Signs are fixed by each vector's largest entry, so
    that the same consensus gives the same frame on every machine.

    Raises:
        AnchorError: rank above K - 1, the most that a centred K x K matrix can have.
    """
    if not 1 <= rank < len(consensus):
        raise AnchorError(
            f"the frame's rank must lie in 1..{len(consensus) - 1} with {len(consensus)} anchors, got {rank}"
        )
    values, vectors = torch.linalg.eigh(consensus)
    values, vectors = values.flip(0)[:rank].clamp_min(0), vectors.flip(1)[:, :rank]
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    # Row by row in memory, as files and messages give it back: sums in another order would differ in the last bits.
    return (vectors * largest.sign() * values**power).contiguous()


def continue_frame(frame: Float[Tensor, "K r"], previous: Float[Tensor, "K r"]) -> Float[Tensor, "K r"]:
    """The frame rotated onto the previous round's (orthogonal Procrustes), so that coordinates keep their meaning.

    Eigenvectors of close eigenvalues may swap or rotate between rounds; what nodes learnt must not be lost to that.
    """
    left, _, right = torch.linalg.svd(frame.T @ previous)
    return frame @ (left @ right)
