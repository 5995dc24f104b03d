"""What a Gram matrix of the anchors determines: their features but for a rotation; and private scales, if it has them.

Isogram standardises by the anchors alone, so its one-shot Gram is a function of public items. Were features divided by
a node's own spread, the Gram would tell that spread, feature by feature: `private_scale`.
"""

import numpy as np
import torch
from torch import Tensor

from isogram.alignment import Standardizer, gram, pack, shrink, unpack
from isogram.alignment.gram import unshrink
from isogram.audit.membership import auc
from isogram.config import Config


def up_to_rotation(shrunk: Tensor, features: Tensor) -> float:
    """Relative error of the anchors' features [k, F] rebuilt from their shrunk Gram, given the best rotation and scale.

    The rotation is an oracle's: what is left is what no attacker can miss for want of a basis.
    """
    centred = features.double() - features.double().mean(0)
    values, vectors = torch.linalg.eigh(unshrink(shrunk.double()))
    guess = vectors * values.clamp_min(0).sqrt()
    left, sizes, right = torch.linalg.svd(guess.T @ centred, full_matrices=False)
    turned = guess @ left @ right
    scale = sizes.sum() / guess.square().sum()
    return float((scale * turned - centred).norm() / centred.norm())


def scales(shrunk: Tensor, anchors: Tensor) -> Tensor | None:
    """[F] squared scale by which each feature of the anchors [k, F] seems to have been divided, but for one factor.

    The Gram is linear in 1 / scale^2, with public coefficients. None where features outnumber its entries.
    """
    centred = anchors.double() - anchors.double().mean(0)
    varies = centred.square().sum(0) > 1e-12 * centred.square().sum(0).max()
    k = len(centred)
    if int(varies.sum()) > k * (k - 1) // 2:
        return None
    unit = centred[:, varies] / centred[:, varies].norm(dim=0)
    row, column = torch.tril_indices(k, k)
    design = unit[row] * unit[column]
    weight = torch.linalg.lstsq(design, pack(unshrink(shrunk.double()))[:, None], driver="gelsd").solution[:, 0]
    out = torch.full((centred.shape[1],), torch.nan, dtype=torch.float64)
    out[varies] = centred[:, varies].square().sum(0) / weight.clamp_min(1e-12 * weight.abs().max())
    return out


def private_scale(anchors: Tensor, rows: Tensor, rho: float) -> dict[str, tuple[float, float]] | None:
    """How well a node's own spread of each feature is read off a Gram, for two ways to standardise.

    Args:
        anchors: [k, F] public features.
        rows: [n, F] private ones: a third are at the node, a third are not, and from a third the attacker knows how
            features spread in the population.
        rho: of shrinking.

    Returns:
        "anchors" (as Isogram does) and "private": median relative error of the scale, and the AUC of a test by these
        scales of whether a row is at the node. None where `scales` is.
    """
    inside, outside, known = (rows.double()[i::3] for i in range(3))
    truth = inside.std(0, correction=0)
    found: dict[str, tuple[float, float]] = {}
    for name, of in (("anchors", anchors), ("private", inside)):
        standardize = Standardizer.fit(of, clip=float("inf"))
        message = pack(shrink(gram(standardize(anchors)), rho)).float()
        squared = scales(unpack(message.double()), anchors)
        if squared is None:
            return None
        use = squared.isfinite() & (truth > 0) & (known.std(0) > 0)
        guess = squared[use].sqrt()
        guess = guess * (truth[use] / guess).median()
        error = float(((guess - truth[use]) / truth[use]).abs().median())
        found[name] = error, _auc_by_scale(guess, *(part[:, use] for part in (inside, outside, known)))
    return found


def _auc_by_scale(guess: Tensor, inside: Tensor, outside: Tensor, known: Tensor) -> float:
    """Rows at the node have the features large that are said to spread more there than in the population."""
    population = known.std(0, correction=0)
    lean = (guess / population).square().log().clamp(-1, 1)
    lean = lean - lean.mean()
    large = [((rows - known.mean(0)) / population).square().clamp(max=9) @ lean for rows in (inside, outside)]
    return auc(torch.cat(large).numpy(), np.arange(len(inside) + len(outside)) < len(inside))


def rotation_error(anchors: Tensor, config: Config) -> float:
    """`up_to_rotation` of the one-shot Gram that a node with these anchors [k, F] sends, as float32."""
    features = Standardizer.fit(anchors, config.align.clip)(anchors)
    return up_to_rotation(unpack(pack(shrink(gram(features), config.align.rho)).float().double()), features)
