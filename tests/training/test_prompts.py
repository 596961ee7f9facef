"""Prompts: what a step tells of its tiles."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from sattxt.training import prompts
from sattxt.training.objectives.align.model import positive_pairs
from sattxt.training.prompts import Prompt, PromptBook, PromptConfig, SetTexts


def test_shipped_templates_and_instructions_are_fit_for_use() -> None:
    assert len(prompts.TEMPLATES) >= 12
    assert 8 <= len(prompts.INSTRUCTIONS) <= 12
    config = PromptConfig(instructions=prompts.INSTRUCTIONS)  # checks them
    assert len(set(config.templates)) == len(config.templates)


def test_a_texts_instruction_is_its_own_and_always_the_same() -> None:
    config = PromptConfig(instructions=prompts.INSTRUCTIONS, plain_share=0.5)
    texts = [f"caption {i}" for i in range(800)]
    assert [config.prompt(t) for t in texts] == [config.prompt(t) for t in reversed(texts)][::-1]
    plain = sum(config.prompt(t) == t for t in texts)
    assert 300 < plain < 500
    used = Counter(p.instruction for p in map(config.prompt, texts) if isinstance(p, Prompt))
    assert set(used) == set(prompts.INSTRUCTIONS)
    assert max(used.values()) < 2 * min(used.values())


def sets() -> list[SetTexts]:
    """Two sets: classes with some captions, and captions alone."""
    first = [["lake", "pond"], ["wood"]], [["blue"], [], ["green", "dark"], []], torch.tensor([0, 0, 1, 1])
    return [first, ([], [["one"], []], torch.tensor([-1, -1]))]


def drawn_texts(book: PromptBook, seed: int) -> tuple[list[list[str]], dict[int, str], Any]:
    step = book.draw([torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1])], torch.Generator().manual_seed(seed))
    words = [p.text if isinstance(p, Prompt) else p for p in book.prompts]
    classes = [[words[r] for r in rows.tolist()] for rows in step.classes]
    return classes, {place: words[row] for place, row in enumerate(step.rows.tolist()) if row >= 0}, step


def test_a_step_is_a_function_of_its_generator() -> None:
    book = PromptBook(PromptConfig(caption_share=0.5, instructions=prompts.INSTRUCTIONS), sets())
    draws = [drawn_texts(book, seed)[:2] for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_every_tile_is_told_by_what_is_its_own() -> None:
    book = PromptBook(PromptConfig(templates=("{}", "a {}"), caption_share=0.5), sets())
    own = {0: {"lake", "pond", "a lake", "a pond", "blue"}, 1: {"lake", "pond", "a lake", "a pond"},
           2: {"wood", "a wood", "green", "dark"}, 3: {"wood", "a wood"}, 4: {"one"}}  # fmt: skip
    seen: dict[int, set[str]] = {place: set() for place in own}
    names: list[set[str]] = [set(), set()]
    for seed in range(300):
        classes, told, step = drawn_texts(book, seed)
        assert classes[1] == []
        for number, text in enumerate(classes[0]):
            names[number].add(text)
        assert 4 in told  # a tile without a class loses no caption to the share
        assert 5 not in told
        for place, text in told.items():
            seen[place].add(text)
        by_class = [text in ("lake", "pond", "a lake", "a pond", "wood", "a wood") for text in told.values()]
        assert (step.text_group >= 0)[list(told)].tolist() == by_class
    assert seen == own
    assert names == [own[1], own[3]]


@pytest.mark.parametrize(("share", "expected"), [(1.0, {0, 2, 4}), (0.0, {0, 1, 2, 3, 4})])
def test_caption_share_at_its_ends(share: float, expected: set[int]) -> None:
    book = PromptBook(PromptConfig(caption_share=share), sets())
    for seed in range(20):
        _, told, step = drawn_texts(book, seed)
        assert set(told) == expected
        assert bool((step.text_group[:4] >= 0).all()) is (share == 0)


def test_names_alone_are_drawn_where_all_prompts_are_to_be_names() -> None:
    book = PromptBook(PromptConfig(templates=("{}", "a {}"), caption_share=0.0, name_share=1.0), sets())
    seen: set[str] = set()
    for seed in range(30):
        classes, told, _ = drawn_texts(book, seed)
        seen |= {*classes[0], *(told[place] for place in range(4))}
    assert seen == {"lake", "a lake", "wood", "a wood"}  # not pond; captions and templates as ever


def test_a_share_of_names_is_beside_what_falls_to_them_anyway() -> None:
    many = [["lake", *(f"pond {i}" for i in range(9))]], [], torch.zeros(0, dtype=torch.int64)
    book = PromptBook(PromptConfig(templates=("{}",), name_share=0.25), [many])
    drawn = [book.draw([torch.zeros(0, dtype=torch.int64)], torch.Generator().manual_seed(s)) for s in range(1000)]
    names = sum(book.prompts[int(step.classes[0][0])] == "lake" for step in drawn)
    assert 265 < names < 385  # 0.25 + 0.75 / 10 of 1,000


def test_without_a_share_of_names_the_draws_are_those_of_earlier_versions() -> None:
    book = PromptBook(PromptConfig(templates=("{}", "a {}", "the {}"), caption_share=0.5), sets())
    assert drawn_texts(book, 0)[:2] == (
        [["the pond", "the wood"], []], {0: "blue", 1: "a lake", 2: "dark", 3: "a wood", 4: "one"},
    )  # fmt: skip
    assert drawn_texts(book, 1)[:2] == (
        [["lake", "wood"], []], {0: "blue", 1: "the lake", 2: "green", 3: "the wood", 4: "one"},
    )  # fmt: skip
    step = drawn_texts(book, 2)[2]
    assert step.rows.tolist() == [3, 0, 11, -1, 12, -1]


def test_a_class_phrase_fits_every_image_of_its_class() -> None:
    unit = torch.eye(4)
    unit[3] = unit[2]
    image, text = torch.tensor([0, 0, 1, -1]), torch.tensor([0, -1, -1, -1])
    wanted = torch.eye(4, dtype=torch.bool)
    wanted[1, 0] = True  # image 1 is of the class that text 0 names; image 0 is not told by text 1
    wanted[2, 3] = wanted[3, 2] = True  # the same text
    assert torch.equal(positive_pairs(unit, torch.arange(4), 0.95, image, text), wanted)
