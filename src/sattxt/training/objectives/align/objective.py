"""Stage 2, spectrally grounded alignment (SATtxt, section 3.2): image embeddings against frozen text embeddings.

The text encoder is run once over every prompt and caption; what is trained is the vision tower (or, with
``freeze_backbone``, its head alone as in the paper), the text head and the temperature. Two terms: real captions,
contrasted across all data sets (and all ranks), and class prompts, contrasted within the data set they name.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from sattxt.errors import InputError
from sattxt.segment import patch_scores
from sattxt.training.augment import atmosphere, augment, resample, resize
from sattxt.training.objectives.align.model import AlignConfig, AlignModel, add_noise, info_nce, positive_pairs
from sattxt.training.objectives.base import Batch, Objective, StepLosses, generator
from sattxt.training.prompts import PromptBook
from sattxt.training.ranks import autocast, gather
from sattxt.training.records import checksum
from sattxt.training.tiles import Tiles
from sattxt.training.vectors import embed_once
from sattxt.vision.device import resolve_dtype
from sattxt.vision.tower import ImageTokens

# What is drawn, the generator's key after the seed: what a step's ranks share, a rank's own, BatchNorm statistics,
# views that are embedded once.
_SHARED, _OWN, _NORMS, _VIEWS = range(4)
_KEPT = 1024  # kept texts that a step looks at


@dataclass
class AlignBatch(Batch):
    """A micro-batch of stage 2; N tiles, set after set.

    images: (N, 3, S, S) float32 pixel values; with ``image_views`` (N, D) float32 embeddings. labels: for each data set
    (n,) int64 into its classes, or -1. maps: for each data set with a teacher (n, K, R, R), what share of each place of
    the images a class has; else no rows. classes: for each data set (K, hidden), one frozen text vector a class, the
    same on every rank; no rows where it has none or they are not learnt from. rows: (N,) int64, each tile's own text
    (a caption, or a phrase of its class) in ``book``; -1: none. texts: (N, hidden), their vectors, zeros where there is
    none. image_group, text_group: (N,) int64, see ``PromptBook.draw``; -1: none. extra_rows: (E,), extra: (E, hidden),
    further captions, the same on every rank, which are negatives of tiles that they are not written of. noise_seed: of
    ``text_noise``. kept: (Q, hidden), kept_at: (Q, D), texts to hold and where, the same on every rank.
    """

    images: Tensor
    labels: list[Tensor]
    maps: list[Tensor]
    classes: list[Tensor]
    rows: Tensor
    texts: Tensor
    image_group: Tensor
    text_group: Tensor
    extra_rows: Tensor
    extra: Tensor
    noise_seed: int
    kept: Tensor
    kept_at: Tensor


class AlignObjective(Objective):
    """Stage 2 on tile sets.

    Args:
        sets, counts, normalise, context: see :class:`~sattxt.training.objectives.base.Objective`.
        book: the prompts of ``sets``, in their order.
        pooled: (T, hidden) float32, the frozen vectors of ``book.prompts``.
        kept: (Q, hidden) frozen vectors of texts to hold, and the (Q, D) unit embeddings that they are held at.

    Raises:
        InputError: the parts do not fit together, or there is neither a class nor a caption to learn from.
    """

    stage = "align"
    config: AlignConfig

    def __init__(
        self,
        config: AlignConfig,
        sets: Sequence[Tiles],
        counts: Sequence[int],
        book: PromptBook,
        pooled: Tensor,
        normalise: Callable[[Tensor], Tensor],
        context: Mapping[str, Any] | None = None,
        kept: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__(config, sets, counts, normalise, context)
        self._kept = kept or (pooled[:0], pooled[:0])
        self.book, self.pooled = book, pooled
        self._embedded: list[tuple[Tensor, Tensor]] = []  # with image_views, as embed_once gives them
        self._captions = book.caption_rows() if config.caption_weight > 0 else torch.empty(0, dtype=torch.int64)
        by_phrase = any(book.class_counts) and book.config.caption_share < 1
        by_class = config.class_weight > 0 and max(book.class_counts, default=0) > 1
        if not (by_class or len(self._captions) > 1 or (config.caption_weight > 0 and by_phrase)):
            raise InputError(
                "nothing to learn from: no data set has two classes or captions with a weight above 0; name a "
                "vocabulary or captions in the recipe, add classes, or raise class_weight or caption_weight"
            )

    # -- batches ---------------------------------------------------------------------------------------------------

    def draw(self, step: int, micro: int = 0, rank: int = 0, ranks: int = 1) -> AlignBatch:
        """See :class:`AlignBatch`. Image side, class phrases and extra captions are common to a step's ranks."""
        config, parts = self.config, self.parts(step, micro, rank, ranks)
        shared = generator(config.seed, _SHARED, step, 1 + micro)
        own = generator(config.seed, _OWN, step, micro, rank)
        classes = self._draw_classes(shared)
        pool = config.pool if len(self._captions) else 0
        extra = self._captions[torch.randint(max(1, len(self._captions)), (pool,), generator=shared)]
        images, parts, geometry = self._draw_views(parts, step, own)
        drawn = self.book.draw(parts, own)
        noise_seed = int(torch.randint(2**62, (1,), generator=shared))
        held = torch.randperm(len(self._kept[0]), generator=shared)[:_KEPT]
        rows = drawn.rows if config.caption_weight > 0 else torch.full_like(drawn.rows, -1)
        if not config.image_views:
            images = self.pixels(atmosphere(images, config.augment, own))
        return AlignBatch(
            step=step,
            parts=parts,
            images=images,
            labels=[s.labels[index] for s, index in zip(self.sets, parts, strict=True)],
            maps=[
                resample(s.maps[index].float() / 255, theta, s.maps.shape[-1]) if len(s.maps) else s.maps
                for s, index, theta in zip(self.sets, parts, geometry, strict=True)
            ],
            classes=classes,
            rows=rows,
            texts=torch.where(rows[:, None] >= 0, self.pooled[rows.clamp(min=0)], 0.0),
            image_group=drawn.image_group,
            text_group=drawn.text_group,
            extra_rows=extra,
            extra=self.pooled[extra],
            noise_seed=noise_seed,
            kept=self._kept[0][held],
            kept_at=self._kept[1][held],
        )

    def _draw_views(
        self, parts: list[Tensor], step: int, own: torch.Generator
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """(N, 3, S, S) in [0, 1], of a side S that all ranks share, or (N, D) stored embeddings; which tiles these
        are: another where one could not be read; and the (n, 2, 3) maps that moved them.
        """
        config, chosen = self.config, list(zip(self.sets, parts, strict=True))
        if not config.image_views:
            weights, shared = torch.tensor(config.size_weights), generator(config.seed, _SHARED, step, 0)
            size = config.sizes[int(torch.multinomial(weights, 1, generator=shared))]
            drawn = [augment(s.take(index), size, config.augment, own) for s, index in chosen]
            images, moved = zip(*drawn, strict=True)
            return torch.cat(images), [s.actual(index) for s, index in chosen], list(moved)
        if not self._embedded:
            raise InputError("image_views: the tiles are not embedded yet; call prepare() before a batch is drawn")
        stored = []
        for (views, _), index in zip(self._embedded, parts, strict=True):
            stored.append(views[index, torch.randint(views.shape[1], (len(index),), generator=own)])
        actual = [tiles[index] for (_, tiles), index in zip(self._embedded, parts, strict=True)]
        return torch.cat(stored), actual, [torch.eye(2, 3).repeat(len(index), 1, 1) for index in parts]

    def _draw_classes(self, random: torch.Generator) -> list[Tensor]:
        """For each data set, (K, hidden): a text vector of each class, with ``text_mix`` between two of its texts."""
        drawn = []
        for rows, others in zip(self.book.draw_classes(random), self.book.draw_classes(random), strict=True):
            texts = self.pooled[rows if self.config.class_weight > 0 else rows[:0]]
            if self.config.text_mix > 0 and len(texts):
                mixed = torch.rand(len(texts), 1, generator=random) < self.config.text_mix
                share = torch.rand(len(texts), 1, generator=random) * mixed
                texts = torch.lerp(texts, self.pooled[others], share)
            drawn.append(texts)
        return drawn

    @torch.no_grad()
    def prepare(self, model: AlignModel, out: Path, device: torch.device) -> None:
        """With ``image_views``, embed every tile that often (whole, then augmented), or read what an earlier run in
        ``out`` left of it.
        """
        config = self.config
        if not config.image_views:
            return
        (size,), augmented = config.sizes, config.augment
        vision = copy.deepcopy(model.vision).for_inference(resolve_dtype(config.precision, device)).to(device)

        def embed(which: int, index: Tensor, number: int) -> Tensor:
            images = self.sets[which].take(index)
            if number == 0:
                images = resize(images, size)
            else:
                random = generator(config.seed, _VIEWS, which, number, int(index[0]))
                images = atmosphere(augment(images, size, augmented, random)[0], augmented, random)
            embedded = torch.cat([seen.embedding.float() for seen in vision.in_passes(self.pixels(images))])
            return F.normalize(embedded, dim=-1).cpu()

        drawn = (augmented, config.seed) if config.image_views > 1 else ()
        shared = f"{checksum(model.vision.state_dict())} {size} {config.precision} {drawn} {self.context.get('image')}"
        self._embedded = [
            embed_once(
                tiles,
                partial(embed, which),
                config.image_views,
                out / f"images-{which}.safetensors",
                f"{shared} {self.context.get(f'set {tiles.name}')}",
            )
            for which, tiles in enumerate(self.sets)
        ]

    # -- losses ----------------------------------------------------------------------------------------------------

    def losses(self, model: AlignModel, batch: AlignBatch) -> StepLosses:
        """``class``: softmax over a set's own classes. ``place``: the same of patch tokens, where a teacher tells what
        lies there. ``caption``: the contrast over all ranks' captioned tiles. ``keep``: how far kept texts have moved.

        ``scale`` is among the terms for the log; it is not minimised.
        """
        config, image, noise = self.config, batch.images, generator(batch.noise_seed)
        weights, terms = {"class": config.class_weight, "caption": config.caption_weight}, {}
        if image.ndim == 4:
            with autocast(config.precision, image.device):
                tokens = model.vision(image)
            image = F.normalize(tokens.embedding.float(), dim=-1)
            if config.place_weight > 0 and any(map(len, batch.maps)):
                weights["place"] = config.place_weight
                terms["place"] = self._place_loss(model, tokens, batch, noise)
        if config.class_weight > 0:
            terms["class"] = self._class_loss(model, image, batch, noise)
        if config.caption_weight > 0:
            terms["caption"] = self._caption_loss(model, image, batch, noise)
        if len(batch.kept):
            weights["keep"] = config.keep_weight
            terms["keep"] = (model.texts(batch.kept) - batch.kept_at).square().sum(dim=-1).mean()
        total = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        return StepLosses(total, {**terms, "scale": model.scale()[0]}, {})

    def _place_loss(self, model: AlignModel, tokens: ImageTokens, batch: AlignBatch, noise: torch.Generator) -> Tensor:
        """Cross-entropy of a teacher's shares at each place against the scores that segmentation gives the place."""
        errors = []
        starts = itertools.accumulate([0, *map(len, batch.parts)])
        for start, maps, classes in zip(starts, batch.maps, batch.classes, strict=False):
            if len(maps):
                backbone, cls, patches = (part[start : start + len(maps)].float() for part in tokens[:3])
                own = ImageTokens(backbone, cls, patches, tokens.grid)
                scores = patch_scores(own, model.texts(add_noise(classes, self.config.text_noise, noise)))
                errors.append(F.cross_entropy(model.scale() * scores, F.adaptive_avg_pool2d(maps, tokens.grid)))
        return torch.stack(errors).mean()

    def _class_loss(self, model: AlignModel, image: Tensor, batch: AlignBatch, noise: torch.Generator) -> Tensor:
        """Mean over labelled tiles, and those whose shares of the classes a teacher tells; without any, 0 with every
        parameter in its graph, as data-parallel training needs it.
        """
        errors = []
        images = torch.split(image, [len(part) for part in batch.parts])
        for own, labels, maps, classes in zip(images, batch.labels, batch.maps, batch.classes, strict=True):
            texts, known = model.texts(add_noise(classes, self.config.text_noise, noise)), labels >= 0
            logits = model.scale() * own @ texts.T
            if len(maps):
                errors.append(F.cross_entropy(logits, maps.mean(dim=(2, 3)), reduction="none"))
            else:
                smooth = F.cross_entropy(logits[known], labels[known], reduction="none", label_smoothing=0.05)
                errors.append(smooth)
        found = torch.cat(errors)
        return found.sum() / max(1, len(found))

    def _caption_loss(self, model: AlignModel, image: Tensor, batch: AlignBatch, noise: torch.Generator) -> Tensor:
        """Over the tiles of all ranks that have a text; with fewer than two, 0 as in :meth:`_class_loss`."""
        rows = gather(batch.rows)
        kept = rows >= 0
        if int(kept.sum()) < 2:
            return 0 * (image.sum() + model.text(batch.texts[:1]).sum() + model.log_scale.sum())
        image, vectors, image_group, text_group = (
            gather(part)[kept] for part in (image, batch.texts, batch.image_group, batch.text_group)
        )
        # each text once, however many tiles it describes
        columns, place = torch.unique(torch.cat([rows[kept], batch.extra_rows]), return_inverse=True)
        texts = vectors.new_empty(len(columns), vectors.shape[-1])
        texts[place] = torch.cat([vectors, batch.extra])
        own, groups, named = place[: len(vectors)], torch.full_like(columns, -1), text_group >= 0
        groups[own[named]] = text_group[named]
        positives = positive_pairs(F.normalize(texts, dim=-1), own, self.config.same_text, image_group, groups)
        return info_nce(image, model.texts(add_noise(texts, self.config.text_noise, noise)), model.scale(), positives)

    # -- the model -------------------------------------------------------------------------------------------------

    def rates(self, model: AlignModel) -> list[tuple[nn.Module, float | None]]:
        """Backbone, heads, text head, and the temperature."""
        config = self.config
        text_lr = config.head_lr if config.text_lr is None else config.text_lr
        return [
            (model.vision.backbone, None if config.freeze_backbone else config.backbone_lr),
            (model.vision.head, None if config.freeze_head else config.head_lr),
            (model.text, None if config.freeze_text_head else text_lr),
            (nn.ParameterList([model.log_scale]), config.head_lr),
        ]

    def in_eval_mode(self, model: AlignModel) -> list[nn.Module]:
        """What is frozen and, with ``freeze_norms``, every norm that keeps statistics."""
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)] if self.config.freeze_norms else []
        return [*self.frozen(model), *norms]

    def calibrate_norms(self, model: AlignModel, size: int, batches: int) -> AlignModel:
        """A copy of ``model`` in eval mode whose BatchNorm statistics are means over plain training batches.

        Averaged weights need their own: those of the weights they were averaged from do not fit. A frozen backbone and
        frozen norms keep the statistics they were trained with: then, and for 0 ``batches``, it is ``model`` itself.

        Args:
            size: side in pixels of the tiles.
        """
        if self.config.freeze_backbone or self.config.freeze_norms or not batches:
            return model.eval()
        model = copy.deepcopy(model).eval()
        device, random = model.log_scale.device, generator(self.config.seed, _NORMS)

        def draw() -> Iterator[Tensor]:
            for _ in range(batches):
                counted = zip(self.sets, self.counts, strict=True)
                drawn = [s.take(torch.randint(len(s), (count,), generator=random)) for s, count in counted]
                yield self.pixels(torch.cat([resize(tiles, size) for tiles in drawn])).to(device)

        with autocast(self.config.precision, device):
            update_bn(draw(), model.vision)
        return model
