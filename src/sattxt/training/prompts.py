"""What stage 2 reads: phrases in templates, captions, and the instructions put before either (SATtxt, section 3.2).

A prompt is a text, perhaps with an instruction. Which one is a function of the text alone, so a run's vectors can be
computed once, before it. What a step uses is drawn by :meth:`PromptBook.draw`, from the generator it is given and
nothing else.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any, NamedTuple, TypeAlias

import torch
from pydantic import ValidationInfo, field_validator, model_validator
from torch import Tensor

from sattxt.labels import sets
from sattxt.labels.prompts import TEMPLATES as NAMED_TEMPLATES
from sattxt.labels.prompts import parse_templates
from sattxt.training.schema import Config, Share

#: Where a class's phrase goes into a prompt.
TEMPLATES: tuple[str, ...] = (
    "{}",
    "a satellite image of {}",
    "a satellite photo of {}",
    "an aerial image of {}",
    "an aerial view of {}",
    "{} seen from above",
    "a remote sensing image of {}",
    "a Sentinel-2 image showing {}",
    "overhead imagery of {}",
    "this tile shows {}",
    "a bird's-eye view of {}",
    "land cover: {}",
    "a scene dominated by {}",
    "high-resolution imagery with {} in it",
    "a small patch of the Earth with {}",
    "{} as a sensor in orbit records it",
)

#: Put before a text; which of them says nothing about the text.
INSTRUCTIONS: tuple[str, ...] = (
    "Describe the land cover in this satellite image:",
    "Name the kind of scene seen from above:",
    "Summarise the land use visible in this aerial picture:",
    "Represent what a sensor in orbit sees on the ground:",
    "Retrieve satellite images that match this description:",
    "Match this text to the Earth observation image it describes:",
    "Identify the objects and surfaces in this overhead view:",
    "Consider colour, texture and shape as they appear from space:",
    "Consider what near-infrared and short-wave infrared bands would show, vegetation, moisture, soil and buildings:",
    "Tell natural surfaces from built ones in this remote sensing image:",
    "Give the dominant land cover, leaving shadows and clouds aside:",
    "Classify this tile by its vegetation, water, soil and buildings:",
)


def shipped_texts() -> tuple[str, ...]:
    """The names and prompts of all label sets and the phrases of the shipped vocabulary, bare and in a template."""
    vocabulary = resources.files("sattxt.training") / "recipes" / "vocabulary.json"
    classes = [phrases for of in json.loads(vocabulary.read_text(encoding="utf-8")).values() for phrases in of.values()]
    labels = [(label.name, *label.prompts) for name in sets.list_label_sets() for label in sets.label_set(name)]
    phrases = dict.fromkeys(text for texts in (*labels, *classes) for text in texts)
    return tuple(template.replace("{}", text) for template in ("{}", *NAMED_TEMPLATES["reference"]) for text in phrases)


class Prompt(NamedTuple):
    """A text with an instruction before it."""

    instruction: str
    text: str


#: A plain text is a prompt without an instruction.
AnyPrompt: TypeAlias = str | Prompt


class PromptConfig(Config):
    """How texts become prompts."""

    templates: tuple[str, ...] = TEMPLATES  # for class phrases, each with {} once; "default" is the shipped ones
    instructions: tuple[str, ...] = ()  # put before a text; none leaves every text plain, "default" is the shipped ones
    plain_share: Share = 0.5  # of texts, those without an instruction
    # Of tiles with a class, those whose text is one of their captions rather than a class phrase; 1: captions alone.
    caption_share: Share = 1.0
    name_share: Share = 0.0  # of class prompts, those made of the class's first phrase, beside its share among all

    @field_validator("templates", "instructions", mode="before")
    @classmethod
    def _take_shipped(cls, value: Any, info: ValidationInfo) -> Any:
        if value == "default":
            return TEMPLATES if info.field_name == "templates" else INSTRUCTIONS
        if isinstance(value, str):
            raise ValueError(f"{value!r}; pass a list of texts, or 'default' for the shipped ones")
        return value

    @model_validator(mode="after")
    def _check_texts(self) -> PromptConfig:
        parse_templates(self.templates)
        if len(set(self.instructions)) != len(self.instructions) or not all(i.strip() for i in self.instructions):
            raise ValueError("instructions: pass each once, none of them empty (an empty list leaves them all out)")
        return self

    def prompt(self, text: str) -> AnyPrompt:
        """What ``text`` is embedded as; always the same for the same text."""
        draw = random.Random(text)
        if not self.instructions or draw.random() < self.plain_share:
            return text
        return Prompt(draw.sample(self.instructions, 1)[0], text)


#: The texts of one data set: for each class what stands for it, without templates; for each tile its captions, possibly
#: none; (N,) int64 each tile's class, or -1.
SetTexts: TypeAlias = tuple[Sequence[Sequence[str]], Sequence[Sequence[str]], Tensor]


class StepPrompts(NamedTuple):
    """What one step uses; rows are into :attr:`PromptBook.prompts`, and so of the vectors made of them.

    classes: for each data set, (K,) rows, one prompt a class.
    rows: (N,) each tile's text; -1 for none. image_group, text_group: (N,) the class (numbered across all sets) of a
    tile that has a text, and of its text where that is a class phrase; -1 for none. See
    :func:`sattxt.training.objectives.align.model.positive_pairs`.
    """

    classes: list[Tensor]
    rows: Tensor
    image_group: Tensor
    text_group: Tensor


class PromptBook:
    """All prompts of a run, and the drawing of them.

    Args:
        sets: in the order of the batch's parts.
        extras: further texts to embed, as they are: names for validation, backgrounds.
    """

    def __init__(self, config: PromptConfig, sets: Sequence[SetTexts], extras: Iterable[str] = ()) -> None:
        self.config = config
        self.row: dict[AnyPrompt, int] = {}
        # each set's class prompts, captions, labels, and the number of its first class across all sets
        self._sets: list[tuple[_Ragged, _Ragged, Tensor, int]] = []
        self.class_counts = [len(phrases) for phrases, _, _ in sets]
        for number, (phrases, captions, labels) in enumerate(sets):
            filled = [[t.replace("{}", text) for text in texts for t in config.templates] for texts in phrases]
            classes, told = (
                _Ragged([self._add(map(config.prompt, texts)) for texts in part]) for part in (filled, captions)
            )
            self._sets.append((classes, told, labels, sum(self.class_counts[:number])))
        self._add(extras)

    @property
    def prompts(self) -> list[AnyPrompt]:
        """Every prompt once; a prompt's place in it is its row."""
        return list(self.row)

    def caption_rows(self) -> Tensor:
        """Rows of all captions, sorted: what further negatives are drawn from."""
        return torch.unique(
            torch.cat([torch.empty(0, dtype=torch.int64), *(captions.flat for _, captions, _, _ in self._sets)])
        )

    def draw(self, parts: Sequence[Tensor], generator: torch.Generator) -> StepPrompts:
        """The prompts of a batch.

        Args:
            parts: for each data set, the (n,) int64 indices of its tiles in the batch, in the batch's order.
        """
        classes, chosen, image_group, text_group = [], [], [], []
        for (phrases, captions, labels, first), index in zip(self._sets, parts, strict=True):
            classes.append(self._class_rows(phrases, torch.arange(len(phrases.counts)), generator))
            label = labels[index]
            classed, captioned = label >= 0, captions.counts[index] > 0
            wants_caption = torch.rand(len(index), generator=generator) < self.config.caption_share
            by_caption = captioned & (wants_caption | ~classed)
            by_class = classed & ~by_caption & ~wants_caption
            drawn = torch.full((len(index),), -1)
            drawn[by_caption] = captions.pick(index[by_caption], generator)
            drawn[by_class] = self._class_rows(phrases, label[by_class], generator)
            group = torch.where(classed & (drawn >= 0), label + first, -1)
            chosen.append(drawn)
            image_group.append(group)
            text_group.append(torch.where(by_class, group, -1))
        return StepPrompts(classes, torch.cat(chosen), torch.cat(image_group), torch.cat(text_group))

    def draw_classes(self, generator: torch.Generator) -> list[Tensor]:
        """``classes`` of :class:`StepPrompts` alone."""
        return self.draw([torch.empty(0, dtype=torch.int64)] * len(self._sets), generator).classes

    def _class_rows(self, classes: _Ragged, index: Tensor, generator: torch.Generator) -> Tensor:
        """One prompt of each class in ``index``."""
        drawn = classes.pick(index, generator)
        if self.config.name_share == 0:
            return drawn
        by_name = torch.rand(len(index), generator=generator) < self.config.name_share
        named = classes.pick(index, generator, first=len(self.config.templates))  # a class's first phrase
        return torch.where(by_name, named, drawn)

    def _add(self, prompts: Iterable[AnyPrompt]) -> list[int]:
        return [self.row.setdefault(prompt, len(self.row)) for prompt in prompts]


class _Ragged:
    """Lists of rows of different lengths, end to end: a million captions are two tensors, not a million."""

    def __init__(self, lists: Sequence[Sequence[int]]) -> None:
        self.counts = torch.tensor([len(rows) for rows in lists], dtype=torch.int64)
        self.starts = self.counts.cumsum(0) - self.counts
        self.flat = torch.tensor([row for rows in lists for row in rows], dtype=torch.int64)

    def pick(self, index: Tensor, generator: torch.Generator, first: int | None = None) -> Tensor:
        """(n,): one row of each list in ``index``, none of them empty; ``first``: of its first so many alone."""
        counts = self.counts[index] if first is None else torch.full_like(index, first)
        # float64: in float32, a number just below 1 times a large count rounds up to the count
        drawn = (torch.rand(len(index), generator=generator, dtype=torch.float64) * counts).long()
        return self.flat[self.starts[index] + drawn]
