"""Features in two dimensions: by principal components, and by t-SNE (van der Maaten & Hinton 2008)."""

from typing import Any

import numpy as np
import numpy.typing as npt

SIDE = 1000
"""Width and height of a map, in steps of whole numbers."""

PERPLEXITY = 30.0
COMPONENTS = 50
"""Principal components that t-SNE starts from, as its authors do; distances of thousands of features cost more and
tell no more."""

ITERATIONS = 750
"""On features of NW-UCLA the divergence is then within 0.1 % of that after 1000, at three quarters of the time."""

FEWEST = 8
"""Points that t-SNE says something about."""

Floats = npt.NDArray[np.float64]


def unit(values: Floats) -> Floats:
    """Rows (N, D) of length 1, as the cosine of retrieval compares them; rows of zeros stay."""
    length = np.linalg.norm(values, axis=1, keepdims=True)
    placed: Floats = np.divide(values, length, out=np.zeros_like(values), where=length > 0)
    return placed


def maps(values: Floats) -> dict[str, Any]:
    """Two maps of points; equal values give equal maps, whatever the number of threads.

    Args:
        values: (N, D) finite.

    Returns:
        "pca" and "tsne": 2N whole numbers, x and y by turns in 0..`SIDE`, None where there is no such map; "share": of
        the variance that the two principal components hold; "why": there is no map, or no t-SNE, and why.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # scikit-learn needs it and brings it

    # sums of several threads differ in their last bits, from which t-SNE goes another way
    with threadpool_limits(1):
        return _maps(np.asarray(values, dtype=np.float64))


def _maps(values: Floats) -> dict[str, Any]:
    from sklearn.decomposition import PCA  # 2 s

    none: dict[str, Any] = {"pca": None, "tsne": None, "share": None}
    if min(values.shape) < 2:
        return none | {"why": f"{len(values)} samples with {values.shape[1]} features are no map"}
    if np.ptp(values, axis=0).max() <= 1e-6 * np.abs(values).max():
        return none | {"why": "all samples have the same features: the encoder has collapsed"}
    pca = PCA(n_components=min(COMPONENTS, *values.shape), svd_solver="full").fit(values)
    points = pca.transform(values)
    found = {"pca": _in_box(points[:, :2]), "tsne": None, "share": float(pca.explained_variance_ratio_[:2].sum())}
    if len(values) < FEWEST:
        return found | {"why": f"{len(values)} samples are too few for t-SNE"}
    return found | {"tsne": _in_box(_turned(_tsne(points)))}


def _tsne(points: Floats) -> Floats:
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
    tsne = TSNE(init="pca", perplexity=perplexity, max_iter=ITERATIONS, random_state=0)
    placed: Floats = tsne.fit_transform(points.astype(np.float32)).astype(np.float64)
    return placed


def _turned(points: Floats) -> Floats:
    """Points (N, 2) turned so that the smallest square holds them: t-SNE's axes mean nothing."""
    turns = [np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in np.deg2rad(np.arange(0, 90, 3))]
    return min((points @ turn for turn in turns), key=lambda turned: float(np.ptp(turned, axis=0).max()))


def _in_box(points: Floats) -> list[int]:
    """Points (N, 2) moved and scaled, the same in both directions, into 0..`SIDE`; y downwards, as on a page."""
    low, high = points.min(axis=0), points.max(axis=0)
    scaled = SIDE / 2 + (points - (low + high) / 2) * (SIDE / (high - low).max())
    flipped = np.stack([scaled[:, 0], SIDE - scaled[:, 1]], axis=1)
    whole: list[int] = np.rint(flipped).astype(int).flatten().tolist()
    return whole
