"""Stage 2, spectrally grounded alignment (SATtxt, section 3.2): image embeddings against frozen text embeddings.

The text encoder is run once over every prompt and caption; what is trained is the vision tower (or, with
``freeze_backbone``, its head alone as in the paper), the text head and the temperature. Two terms: real captions,
contrasted across all data sets (and all ranks), and class prompts, contrasted within the data set they name.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sattxt.errors import InputError
from sattxt.training.augment import atmosphere, augment, resize
from sattxt.training.hardware import autocast
from sattxt.training.image_bank import ImageBank
from sattxt.training.objectives.align.config import AlignConfig
from sattxt.training.objectives.align.losses import class_contrast, info_nce, positive_pairs
from sattxt.training.objectives.align.model import AlignModel
from sattxt.training.objectives.align.views import add_noise, embed_views, mix_some
from sattxt.training.objectives.base import Batch, Gather, Objective, StepLosses, Stream, alone, generator
from sattxt.training.optim import measure_norms, parameter_groups
from sattxt.training.prompts import PromptBook
from sattxt.training.text_bank import TextBank
from sattxt.training.tiles import Tiles

_MAX_SCALE = 100.0  # of 1 / temperature, as CLIP clips it
_SMOOTHING = 0.05  # of class labels


@dataclass
class AlignBatch(Batch):
    """A micro-batch of stage 2; N tiles, set after set.

    pixels: (N, 3, S, S) float32; or else embedded: (N, D) float32, where tiles are embedded once for the whole run.
    labels: for each data set (n,) int64 into its classes, or ``None`` where it has none. classes: for each data set
    (K, hidden), one frozen text vector a class, the same on every rank; or ``None``. rows: (N,) int64, each tile's own
    text (a caption, or a phrase of its class) in the bank; -1: none. texts: (N, hidden), their vectors, zeros where
    there is none. image_group, text_group: (N,) int64, see ``PromptBook.draw``; -1: none. extra_rows: (E,),
    extra: (E, hidden), further captions, the same on every rank, which are negatives of tiles that they are not written
    of. noise_seed: of ``text_noise``.
    """

    pixels: Tensor | None
    embedded: Tensor | None
    labels: list[Tensor | None]
    classes: list[Tensor | None]
    rows: Tensor
    texts: Tensor
    image_group: Tensor
    text_group: Tensor
    extra_rows: Tensor
    extra: Tensor
    noise_seed: int


class AlignObjective(Objective):
    """Stage 2 on tile sets.

    Args:
        book: the prompts of ``sets``, in their order.
        bank: made of ``book.prompts``.
        normalise: from (N, 3, H, W) floats in [0, 1] to pixel values.
        context: see :class:`~sattxt.training.objectives.base.Objective`.

    Raises:
        InputError: the parts do not fit together, or there is neither a class nor a caption to learn from.
    """

    stage = "align"
    config: AlignConfig

    def __init__(
        self,
        config: AlignConfig,
        sets: Sequence[Tiles],
        book: PromptBook,
        bank: TextBank,
        normalise: Callable[[Tensor], Tensor],
        context: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(config, sets, normalise, context)
        self.book, self.bank = book, bank
        self.images: ImageBank | None = None
        self._captions = book.caption_rows()
        by_class = config.class_weight > 0 and max(book.class_counts, default=0) > 1
        by_caption = config.caption_weight > 0 and (
            len(self._captions) > 1 or (any(book.class_counts) and book.config.caption_share < 1)
        )
        if not (by_class or by_caption):
            raise InputError(
                "nothing to learn from: no data set has two classes or captions with a weight above 0; name a "
                "vocabulary or captions in the recipe, add classes, or raise class_weight or caption_weight"
            )

    # -- batches ---------------------------------------------------------------------------------------------------

    def draw(self, step: int, micro: int = 0, rank: int = 0, ranks: int = 1) -> AlignBatch:
        """See :class:`AlignBatch`. Image side, class phrases and extra captions are common to a step's ranks."""
        config, parts = self.config, self.parts(step, micro, rank, ranks)
        shared = generator(config.seed, Stream.SHARED, step, 1 + micro)
        own = generator(config.seed, Stream.OWN, step, micro, rank)
        classes = self._draw_classes(shared)
        extra = self._captions[:0]
        if len(self._captions) and config.caption_weight > 0:
            extra = self._captions[torch.randint(len(self._captions), (config.pool,), generator=shared)]
        images, embedded = None, None
        if config.image_views:
            embedded, parts = self._take_embeddings(parts, own)
        else:
            images = self._augment(parts, step, own)
            parts = [s.actual(i) for s, i in zip(self.sets, parts, strict=True)]  # another where one is unreadable
        drawn = self.book.draw(parts, own)
        rows = drawn.rows if config.caption_weight > 0 else torch.full_like(drawn.rows, -1)
        texts = torch.zeros(len(rows), self.bank.hidden_size)
        texts[rows >= 0] = self.bank.vectors(rows[rows >= 0])
        return AlignBatch(
            step=step,
            parts=parts,
            pixels=None if images is None else self.pixels(atmosphere(images, config.augment, own)),
            embedded=embedded,
            labels=[None if c is None else s.labels[i] for s, c, i in zip(self.sets, classes, parts, strict=True)],
            classes=classes,
            rows=rows,
            texts=texts,
            image_group=drawn.image_group,
            text_group=drawn.text_group,
            extra_rows=extra,
            extra=self.bank.vectors(extra),
            noise_seed=int(torch.randint(2**62, (1,), generator=shared)),
        )

    def prepare(self, model: AlignModel, out: Path, device: torch.device) -> None:
        """Embed every tile ``image_views`` times, or read what an earlier run in ``out`` left of it."""
        if self.config.image_views:
            facts = [f"{self.context.get('image')} {self.context.get(f'set {s.name}')}" for s in self.sets]
            self.images = embed_views(self.config, self.sets, self.pixels, model.vision, out, device, facts)

    def _augment(self, parts: list[Tensor], step: int, random: torch.Generator) -> Tensor:
        """(N, 3, S, S) in [0, 1], of a side that all ranks share."""
        config = self.config
        weights, shared = torch.tensor(config.size_weights), generator(config.seed, Stream.SHARED, step, 0)
        size = config.sizes[int(torch.multinomial(weights, 1, generator=shared))]
        chosen = zip(self.sets, parts, strict=True)
        return torch.cat([augment(s.take(index), size, config.augment, random) for s, index in chosen])

    def _take_embeddings(self, parts: list[Tensor], random: torch.Generator) -> tuple[Tensor, list[Tensor]]:
        """Embeddings of the tiles, and which these are: another where one could not be read."""
        bank = self.images
        if bank is None:
            raise InputError("image_views: the tiles are not embedded yet; call prepare() before a batch is drawn")
        found = [bank.take(which, index, random) for which, index in enumerate(parts)]
        return torch.cat(found), [bank.tiles[which][index] for which, index in enumerate(parts)]

    def _draw_classes(self, random: torch.Generator) -> list[Tensor | None]:
        """For each data set, (K, hidden): one text vector a class."""
        pairs = list(zip(self.book.draw_classes(random), self.book.draw_classes(random), strict=True))
        return [
            mix_some(self.bank.vectors(rows), self.bank.vectors(others), self.config.text_mix, random)
            if rows is not None and others is not None and self.config.class_weight > 0
            else None
            for rows, others in pairs
        ]

    # -- losses ----------------------------------------------------------------------------------------------------

    def losses(self, model: AlignModel, batch: AlignBatch, gather: Gather = alone) -> StepLosses:
        """``class``: softmax over a set's own classes. ``caption``: the contrast over all ranks' captioned tiles.

        ``scale`` is among the terms for the log; it is not minimised.
        """
        config = self.config
        image = batch.embedded
        if image is None:
            assert batch.pixels is not None
            with autocast(config.precision, batch.pixels.device):
                image = model.image(batch.pixels)
        scale = model.log_scale.exp().clamp(max=_MAX_SCALE)
        noise = generator(batch.noise_seed)
        terms: dict[str, Tensor] = {}
        if config.class_weight > 0:
            terms["class"] = self._class_loss(model, image, batch, scale, noise)
        if config.caption_weight > 0:
            terms["caption"] = self._caption_loss(model, image, batch, scale, noise, gather)
        weights = {"class": config.class_weight, "caption": config.caption_weight}
        total = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        return StepLosses(total, {**terms, "scale": scale[0]}, {})

    def _class_loss(
        self, model: AlignModel, image: Tensor, batch: AlignBatch, scale: Tensor, noise: torch.Generator
    ) -> Tensor:
        total, count = image.new_zeros(()), 0
        images = torch.split(image, [len(part) for part in batch.parts])
        for own, labels, classes in zip(images, batch.labels, batch.classes, strict=True):
            if labels is not None and classes is not None:
                texts, known = model.texts(add_noise(classes, self.config.text_noise, noise)), labels >= 0
                chosen = labels[known]
                if len(chosen):
                    loss = class_contrast(own[known], texts, chosen, scale, _SMOOTHING)
                    total, count = total + loss * len(chosen), count + len(chosen)
        return total / count if count else _nothing(model, image, batch)

    def _caption_loss(
        self,
        model: AlignModel,
        image: Tensor,
        batch: AlignBatch,
        scale: Tensor,
        noise: torch.Generator,
        gather: Gather,
    ) -> Tensor:
        rows = gather(batch.rows)
        kept = rows >= 0
        if int(kept.sum()) < 2:
            return _nothing(model, image, batch)
        image, rows, vectors = gather(image)[kept], rows[kept], gather(batch.texts)[kept]
        image_group, text_group = gather(batch.image_group)[kept], gather(batch.text_group)[kept]
        # each text once, however many tiles it describes
        columns, place = torch.unique(torch.cat([rows, batch.extra_rows]), return_inverse=True)
        texts = vectors.new_empty(len(columns), vectors.shape[-1])
        texts[place] = torch.cat([vectors, batch.extra])
        own_columns = place[: len(rows)]
        groups = torch.full_like(columns, -1)
        named = text_group >= 0
        groups[own_columns[named]] = text_group[named]
        unit = F.normalize(texts, dim=-1)
        positives = positive_pairs(unit, own_columns, self.config.same_text, image_group, groups)
        return info_nce(image, model.texts(add_noise(texts, self.config.text_noise, noise)), scale, positives)

    # -- the model -------------------------------------------------------------------------------------------------

    def frozen(self, model: AlignModel) -> list[nn.Module]:
        """The backbone and the heads that ``freeze_*`` name."""
        config = self.config
        chosen = (
            (model.vision.backbone, config.freeze_backbone),
            (model.vision.head, config.freeze_head),
            (model.text, config.freeze_text_head),
        )
        return [module for module, still in chosen if still]

    def in_eval_mode(self, model: AlignModel) -> list[nn.Module]:
        """What is frozen and, with ``freeze_norms``, every norm that keeps statistics."""
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)] if self.config.freeze_norms else []
        return [*self.frozen(model), *norms]

    def groups(self, model: AlignModel) -> list[dict[str, Any]]:
        """Backbone, heads, text head, and the temperature."""
        config, decay = self.config, self.config.weight_decay
        text_lr = config.head_lr if config.text_lr is None else config.text_lr
        return [
            *parameter_groups([model.vision.backbone], config.backbone_lr, decay),
            *parameter_groups([model.vision.head], config.head_lr, decay),
            *parameter_groups([model.text], text_lr, decay),
            {"params": [model.log_scale], "lr": config.head_lr, "weight_decay": 0.0},
        ]

    def identity(self) -> dict[str, Any]:
        """As :meth:`Objective.identity`, without the learning rates of what is frozen."""
        rates = {"backbone_lr": self.config.freeze_backbone, "text_lr": self.config.freeze_text_head}
        return {key: value for key, value in super().identity().items() if not rates.get(key)}

    def calibrate_norms(self, model: AlignModel, size: int, batches: int) -> AlignModel:
        """A copy of ``model`` in eval mode whose BatchNorm statistics are means over plain training batches.

        Averaged weights need their own: those of the weights they were averaged from do not fit. A frozen backbone and
        frozen norms keep the statistics they were trained with: then, and for 0 ``batches``, it is ``model`` itself.

        Args:
            size: side in pixels of the tiles.
        """
        if self.config.freeze_backbone or self.config.freeze_norms or not batches:
            return model.eval()
        model, device = copy.deepcopy(model), model.log_scale.device
        random = generator(self.config.seed, Stream.NORMS)

        def draw() -> Tensor:
            counted = zip(self.sets, self.config.counts, strict=True)
            drawn = [s.take(torch.randint(len(s), (count,), generator=random)) for s, count in counted]
            return self.pixels(torch.cat([resize(tiles, size) for tiles in drawn])).to(device)

        with autocast(self.config.precision, device):
            measure_norms(model, (draw() for _ in range(batches)), model.image)
        return model


def _nothing(model: AlignModel, image: Tensor, batch: AlignBatch) -> Tensor:
    """0, with every parameter in its graph, as data-parallel training needs it."""
    return 0 * (image.sum() + model.text(batch.texts[:1]).sum() + model.log_scale.sum())
