"""What classification returns: the scores of one tile, and a batch of them with the tiles that could not be read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sattxt.errors import InputError, import_extra
from sattxt.images.options import check_count
from sattxt.io import to_json
from sattxt.pictures import html_table, plot_bars, plot_tiles
from sattxt.vision.embeddings import FloatArray

if TYPE_CHECKING:
    from sattxt.images.load import Failure


_FACTS = ("source", "label", "prob", "fit")
#: ``fit`` from which a label counts as fitting.
FITS = 0.5


@dataclass(frozen=True)
class ZeroShotResult:
    """Scores of one tile against K labels.

    labels: the K labels. scores: (K,) float32 cosine similarities in [-1, 1].
    probs: (K,) float32 in [0, 1]. Single-label: they sum to 1 (softmax of the scaled scores). Multi-label: each is
    its own probability that the label applies, contrasted against prompts that mean "none of these".
    source: the path or name the tile came from, if it had one.
    fit: in [0, 1], how sure it is that any of the labels fits the tile: probabilities only rank the labels given.
    ``None`` where the model cannot tell (see ``fit.safetensors`` in docs/architecture.md).
    """

    labels: tuple[str, ...]
    scores: FloatArray
    probs: FloatArray
    multi_label: bool = False
    source: str | None = None
    fit: float | None = None

    @property
    def fits(self) -> bool | None:
        """Whether any of the labels fits the tile: ``fit`` is 0.5 at least; ``None`` where the model cannot tell."""
        return None if self.fit is None else self.fit >= FITS

    @property
    def label(self) -> str:
        """The most probable label."""
        return self.labels[int(self.probs.argmax())]

    @property
    def prob(self) -> float:
        """The most probable label's probability."""
        return float(self.probs.max())

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """The ``k`` most probable labels with their probabilities, best first."""
        order = np.argsort(-self.probs, kind="stable")[: max(0, k)]
        return [(self.labels[i], float(self.probs[i])) for i in order]

    def above(self, threshold: float = 0.5) -> list[str]:
        """Labels whose probability reaches ``threshold``, best first: the answer in multi-label mode.

        Raises:
            InputError: the threshold is not in [0, 1].
        """
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold={threshold}: pass a probability in [0, 1], such as 0.5")
        return [label for label, prob in self.top(len(self.labels)) if prob >= threshold]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict: source, label, and probability and score of every label."""
        return {
            "source": self.source,
            "label": self.label,
            "multi_label": self.multi_label,
            "fit": self.fit,
            "fits": self.fits,
            "probs": {label: float(p) for label, p in zip(self.labels, self.probs, strict=True)},
            "scores": {label: float(s) for label, s in zip(self.labels, self.scores, strict=True)},
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as JSON text."""
        return to_json(self.to_dict())

    def __str__(self) -> str:
        best = ", ".join(f"{label} {100 * prob:.1f} %" for label, prob in self.top(3))
        weak = " (weak match)" if self.fits is False else ""
        return f"{self.source}: {best}{weak}" if self.source else best + weak

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table([self])

    def plot(self, k: int = 5, axes: Any = None) -> Any:
        """Draw the ``k`` most probable labels as bars (extra ``demo``), on matplotlib's ``axes`` or new ones."""
        return plot_bars(self, check_count("k", k), axes)


class ZeroShotBatch(list[ZeroShotResult]):
    """Results of many tiles, in the order they were given: a list.

    indices: for each result, the position of its tile in the input. failures: the tiles that could not be read.
    """

    def __init__(self, results: Iterable[ZeroShotResult], indices: list[int], failures: list[Failure]) -> None:
        super().__init__(results)
        self.indices = indices
        self.failures = failures

    @property
    def labels(self) -> list[str]:
        """The most probable label of each tile."""
        return [result.label for result in self]

    @property
    def scores(self) -> FloatArray:
        """(N, K) cosine similarities."""
        return np.stack([r.scores for r in self]) if self else np.zeros((0, 0), np.float32)

    @property
    def probs(self) -> FloatArray:
        """(N, K) probabilities."""
        return np.stack([r.probs for r in self]) if self else np.zeros((0, 0), np.float32)

    def to_dict(self) -> dict[str, Any]:
        """``{"results": [...], "failures": [...]}``, JSON-ready."""
        return {"results": [r.to_dict() for r in self], "failures": [asdict(f) for f in self.failures]}

    def to_json(self) -> str:
        """:meth:`to_dict` as JSON text."""
        return to_json(self.to_dict())

    def to_rows(self) -> list[dict[str, Any]]:
        """One flat dict a tile: source, label, prob, fit, then a column a label."""
        return [
            {name: getattr(r, name) for name in _FACTS} | dict(zip(r.labels, r.probs.tolist(), strict=True))
            for r in self
        ]

    def to_pandas(self) -> Any:
        """:meth:`to_rows` as a ``pandas.DataFrame``, indexed by the tiles' positions in the input (extra ``eval``)."""
        frame = import_extra("pandas", "eval", "pandas", "to_pandas").DataFrame
        return frame(self.to_rows(), index=self.indices, columns=None if self else list(_FACTS))

    def plot(self, limit: int = 24, columns: int = 6) -> Any:
        """Draw the first ``limit`` tiles with their labels in a grid, where their files can be read (extra ``demo``).

        Returns:
            matplotlib's axes, one a tile.
        """
        return plot_tiles(self, check_count("limit", limit), check_count("columns", columns))

    def _repr_html_(self) -> str:
        return html_table(self, len(self.failures))

    def __str__(self) -> str:
        shown = [str(r) for r in self[:10]]
        if len(self) > 10:
            shown.append(f"... and {len(self) - 10} more")
        if self.failures:
            shown.append(f"{len(self.failures)} could not be read, first {self.failures[0].source}")
        return "\n".join(shown) or "no results"

    __repr__ = __str__
