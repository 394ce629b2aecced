"""Two numbers of a batch of features that show a collapse, complete or dimensional, without any label."""

import torch
import torch.nn.functional as F
from torch import Tensor


def feature_std(features: Tensor) -> float:
    """Standard deviation over the samples of the L2-normalised features (N, D), mean over the dimensions.

    1/sqrt(D) when the directions are spread evenly, 0 when all features are one (Chen & He 2021, SimSiam). Without the
    normalisation the number would follow the length of the features, which tells nothing of a collapse.
    """
    return float(F.normalize(features.double(), dim=1).std(0, correction=0).mean())


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of the singular values, divided by their sum, of the centred features (N, D).

    From 1, all features on a line, to min(N - 1, D), no direction preferred; 0 when all features are one. The
    definition is that of Roy & Vetterli (2007). RankMe (Garrido et al. 2023) applies it to features that are not
    centred, so that their mean counts as a direction, and to a whole data set, where a batch sets no bound.
    """
    rows = features.double()
    centred = rows - rows.mean(0)
    if len(centred) > centred.shape[1]:
        centred = centred.T
    # by way of the inner products of samples: 7 ms against 33 ms for svdvals of (128, 2048) on a core
    squares = torch.linalg.eigvalsh((centred @ centred.T).cpu())
    # rounding is no direction; the root of what it leaves, 1e-16 of the largest, would count as 1e-8 of it
    floor = max(1e-12 * float(squares.amax()), 1e-28 * float(rows.square().sum()))
    singular = squares[squares > floor].sqrt()
    if not len(singular):
        return 0.0
    return float(torch.special.entr(singular / singular.sum()).sum().exp())
