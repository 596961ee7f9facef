"""The text tower: what is known is never encoded again, what is computed is kept, and errors say the way out."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from release_files import LLM_DIGEST
from safetensors.torch import load_file

from sattxt.config import ModelSource, TextEncoderConfig
from sattxt.errors import (
    BankMismatchError,
    CacheError,
    DiskFullError,
    InputError,
    MissingExtraError,
    NotEnoughMemoryError,
    OfflineError,
    TextEncoderUnavailableError,
    WeightsError,
)
from sattxt.text.cache import TextCache, TextCacheWarning
from sattxt.text.encoder import fingerprint
from sattxt.text.label_bank import LabelBank
from sattxt.text.tower import TextHead, TextTower, open_text_tower

CONFIG = TextEncoderConfig(kind="sentence", hidden_size=8, weights_sha256="0" * 64)


class CountingEncoder:
    """Vectors that depend on text and instruction only; remembers what it was asked, and may break off."""

    hidden_size = 8

    def __init__(self, batch_size: int = 2, stop_after: int | None = None) -> None:
        self.encoded: list[str] = []
        self.batch_size = batch_size
        self.stop_after = stop_after

    def vector(self, text: str, instruction: str | None = None) -> np.ndarray:
        seed = sum(f"{instruction or ''}|{text}".encode())
        return np.random.default_rng(seed).standard_normal(8).astype(np.float32)

    def fingerprint(self, instruction=None):
        return fingerprint(CONFIG, instruction, "float32")

    def encode(self, texts, *, instruction=None, progress=False, on_batch=None):
        self.progress = progress
        for start in range(0, len(texts), self.batch_size):
            if self.stop_after is not None and start >= self.stop_after:
                raise KeyboardInterrupt
            batch = list(texts[start : start + self.batch_size])
            self.encoded += batch
            on_batch(batch, np.stack([self.vector(t, instruction) for t in batch]))
        return np.stack([self.vector(t, instruction) for t in texts])


def _head() -> TextHead:
    torch.manual_seed(0)
    return TextHead(8, 4)


def _tower(encoder: CountingEncoder | None, cache: TextCache | None = None, banks=(), **arguments) -> TextTower:
    def factory():
        if encoder is None:
            raise OfflineError("org/llm is not cached and may not be downloaded")
        return encoder

    tower = TextTower(arguments.pop("config", CONFIG), _head(), encoder_factory=factory, cache=cache, **arguments)
    for bank in banks:
        tower.add_bank(bank)
    return tower


@pytest.fixture
def cache(tmp_path) -> TextCache:
    return TextCache(tmp_path / "text.sqlite3")


def test_each_text_is_encoded_once_and_order_and_duplicates_are_kept(cache):
    encoder = CountingEncoder()
    tower = _tower(encoder, cache)
    vectors = tower.pooled(["b", "a", "b"])
    assert encoder.encoded == ["b", "a"]
    np.testing.assert_array_equal(vectors, np.stack([encoder.vector(t) for t in ("b", "a", "b")]))
    tower.pooled(["a", "c"])
    assert encoder.encoded == ["b", "a", "c"]


def test_with_everything_cached_another_process_needs_no_encoder(cache, tmp_path):
    encoder = CountingEncoder()
    first = _tower(encoder, cache).pooled(["river", "forest"])
    cache.close()
    later = _tower(None, TextCache(tmp_path / "text.sqlite3"))
    np.testing.assert_array_equal(later.pooled(["forest", "river"]), first[::-1])


def test_an_uncached_prompt_without_encoder_names_the_prompts_the_cause_and_the_way_out(cache):
    _tower(CountingEncoder(), cache).pooled(["river"])
    with pytest.raises(TextEncoderUnavailableError) as caught:
        _tower(None, cache).pooled(["river", "volcano", "glacier"])
    message = str(caught.value)
    assert "'volcano', 'glacier'" in message
    assert "'river'" not in message
    assert "org/llm" in message
    assert "labels build" in message
    assert "import_labels" in message
    assert "\n" not in message
    with pytest.raises(
        TextEncoderUnavailableError, match=r"^4 prompts are not cached \('a', 'b', 'c', …\) and the text"
    ):
        _tower(None, cache).pooled(list("abcd"))
    with pytest.raises(TextEncoderUnavailableError, match=r"^the text encoder is not at hand"):
        _tower(None, cache).open_encoder()


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (MissingExtraError("llm", "peft", "merging"), TextEncoderUnavailableError),
        (NotEnoughMemoryError("16 GB"), NotEnoughMemoryError),
        (WeightsError("damaged"), WeightsError),
    ],
)
def test_only_an_absent_encoder_counts_as_unavailable(error, raised):
    def factory():
        raise error

    with pytest.raises(raised, match=str(error)[:5]):
        TextTower(CONFIG, _head(), encoder_factory=factory).pooled("x")


def test_an_interruption_loses_at_most_one_batch(cache):
    with pytest.raises(KeyboardInterrupt):
        _tower(CountingEncoder(stop_after=4), cache).pooled(list("abcdef"))
    encoder = CountingEncoder()
    _tower(encoder, cache).pooled(list("abcdef"))
    assert encoder.encoded == ["e", "f"]


def test_instruction_precision_and_weights_do_not_share_entries(cache):
    encoder = CountingEncoder()
    _tower(encoder, cache).pooled("a")
    _tower(encoder, cache).pooled("a", instruction="describe")
    _tower(encoder, cache, dtype="bfloat16").pooled("a")
    _tower(encoder, cache, config=replace(CONFIG, weights_sha256="1" * 64)).pooled("a")
    assert encoder.encoded == ["a"] * 4
    _tower(encoder, cache).pooled("a", instruction="describe")
    assert encoder.encoded == ["a"] * 4


def test_the_configs_instruction_and_the_same_one_passed_share_entries(cache):
    encoder = CountingEncoder()
    config = replace(CONFIG, instruction="describe")
    _tower(encoder, cache, config=config).pooled("a")
    _tower(encoder, cache, config=config).pooled("a", instruction="describe")
    _tower(encoder, cache).pooled("a", instruction="describe")
    assert encoder.encoded == ["a"]


class FailingCache(TextCache):
    """Reads nothing; refuses writes."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.writes = 0

    def get_many(self, space, texts, *, width=None, accept_float16=None):
        return {}

    def put_many(self, space, texts, vectors):
        self.writes += 1
        raise self.error


@pytest.mark.parametrize("error", [DiskFullError("disk full"), CacheError("read-only"), OSError(5, "I/O error")])
def test_a_cache_that_cannot_be_written_warns_once_and_nothing_computed_is_lost(error):
    cache, encoder = FailingCache(error), CountingEncoder()
    tower = _tower(encoder, cache)
    with pytest.warns(TextCacheWarning) as caught:
        vectors = tower.pooled(list("abcdef"))
    assert len(caught) == 1
    assert cache.writes == 1
    np.testing.assert_array_equal(vectors, np.stack([encoder.vector(t) for t in "abcdef"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(tower.pooled(list("abcdef")), vectors)
    assert encoder.encoded == list("abcdef")


class ReadOnlyCache(FailingCache):
    """Keeps nothing and says so by the number of rows written."""

    def put_many(self, space, texts, vectors):
        return 0


def test_a_read_only_cache_does_not_cost_a_second_encoding():
    encoder = CountingEncoder()
    tower = _tower(encoder, ReadOnlyCache(CacheError("")))
    tower.pooled(["a", "b"])
    tower.pooled(["b", "a"])
    assert encoder.encoded == ["a", "b"]


def test_a_damaged_cache_file_warns_and_the_work_goes_on(tmp_path):
    path = tmp_path / "text.sqlite3"
    path.write_bytes(b"not a database, but long enough to look like one" * 50)
    encoder = CountingEncoder()
    with pytest.warns(TextCacheWarning, match=r"text\.sqlite3"):
        vectors = _tower(encoder, TextCache(path)).pooled(["a"])
    np.testing.assert_array_equal(vectors[0], encoder.vector("a"))
    assert path.read_bytes().startswith(b"not a database")


def test_a_cached_vector_of_another_width_is_told_and_not_used(cache):
    cache.put_many(fingerprint(CONFIG, None, "float32"), ["a"], np.zeros((1, 5), np.float32))
    encoder = CountingEncoder()
    with pytest.warns(TextCacheWarning, match=r"text\.sqlite3: .*width 5, for 'a'.*width 8: delete the file"):
        vectors = _tower(encoder, cache).pooled("a")
    np.testing.assert_array_equal(vectors[0], encoder.vector("a"))


def test_without_a_cache_the_tower_still_remembers():
    encoder = CountingEncoder()
    tower = _tower(encoder)
    tower.pooled("a")
    tower.pooled("a")
    assert encoder.encoded == ["a"]


def test_without_a_cache_the_latest_4096_texts_are_remembered():
    encoder = CountingEncoder(batch_size=4096)
    tower = _tower(encoder)
    texts = [f"text {i}" for i in range(4096)]
    tower.pooled(texts)
    tower.pooled(texts)
    assert len(encoder.encoded) == 4096
    tower.pooled("one more")
    tower.pooled(texts[1:])
    assert len(encoder.encoded) == 4097
    tower.pooled(texts[0])
    assert encoder.encoded[-1] == texts[0]


def test_a_bank_gives_the_same_vectors_where_there_is_no_encoder(tmp_path):
    maker = _tower(CountingEncoder())
    bank = maker.bank(["river", "forest", "river"], labels={"water": ["river"]}, model="mine")
    bank.save(tmp_path / "bank.safetensors")
    user = _tower(None, banks=[LabelBank.load(tmp_path / "bank.safetensors")])
    np.testing.assert_array_equal(user.pooled(["forest", "river"]), maker.pooled(["forest", "river"]))
    torch.testing.assert_close(user.embed(["river"]), maker.embed(["river"]), rtol=0, atol=0)
    assert bank.model == "mine"
    assert bank.labels == {"water": ["river"]}


def test_a_bank_made_in_another_precision_is_used():
    bank = _tower(CountingEncoder(), dtype="bfloat16").bank(["river"])
    user = _tower(None, banks=[bank], dtype="float32")
    np.testing.assert_array_equal(user.pooled("river"), bank.vectors)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_bank_imported_into_the_cache_is_found(cache, precision):
    """As `sattxt labels import` puts it there, and as earlier versions put banks in float16."""
    bank = _tower(CountingEncoder()).bank(["river"])
    cache.put_many(bank.space, bank.texts, bank.vectors.astype(precision))
    np.testing.assert_allclose(_tower(None, cache).pooled("river"), bank.vectors, rtol=1e-3, atol=1e-4)


def test_a_bank_with_an_instruction_serves_that_instruction_only():
    bank = _tower(CountingEncoder()).bank(["river"], instruction="describe")
    user = _tower(None, banks=[bank])
    np.testing.assert_array_equal(user.pooled("river", instruction="describe"), bank.vectors)
    with pytest.raises(TextEncoderUnavailableError):
        user.pooled("river")


def test_a_bank_of_another_encoder_is_refused():
    bank = _tower(CountingEncoder(), config=replace(CONFIG, weights_sha256="1" * 64)).bank(["river"], model="other")
    with pytest.raises(BankMismatchError, match="other"):
        _tower(None).add_bank(bank)


def test_a_bank_of_another_width_is_refused():
    bank = LabelBank(space=fingerprint(CONFIG, ""), texts=["river"], vectors=np.zeros((1, 5), np.float32))
    with pytest.raises(BankMismatchError, match=r"another text encoder.*width 5"):
        _tower(None).add_bank(bank)


def test_embed_is_layer_norm_then_linear_and_not_normalised():
    tower = _tower(encoder := CountingEncoder())
    embedded = tower.embed(["river"])
    pooled = torch.from_numpy(encoder.vector("river"))
    centred = (pooled - pooled.mean()) / (pooled.var(unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(embedded[0], tower.head.proj.weight @ centred, rtol=1e-5, atol=1e-6)
    assert embedded.shape == (1, 4)
    assert embedded.dtype == torch.float32


@pytest.mark.parametrize("texts", ["", ["a", " "], [None], 3, b"a", ["\ud800"]])
def test_bad_texts_are_refused_before_the_encoder_is_opened(texts):
    with pytest.raises(InputError):
        _tower(None).pooled(texts)


def test_no_texts_give_no_vectors():
    assert _tower(None).pooled([]).shape == (0, 8)


def test_fingerprints_are_stable_and_see_everything_that_matters():
    base = fingerprint(CONFIG)
    assert base == fingerprint(CONFIG, "") == fingerprint(replace(CONFIG, base=ModelSource("elsewhere")))
    assert fingerprint(CONFIG, "", "bfloat16") == f"{base}:bfloat16"
    changed = [
        replace(CONFIG, weights_sha256="1" * 64),
        replace(CONFIG, template="<{text}>"),
        replace(CONFIG, max_length=64),
        replace(CONFIG, max_text_tokens=10),
        replace(CONFIG, instruction="describe"),
    ]
    assert len({base, *(fingerprint(c) for c in changed)}) == 6
    # Written down, so that a change that would orphan every user's cache cannot go unnoticed.
    assert base == "c58dc94091aaab683edb55d70d439dfb977390300c710329353a717a9acc80d8"


def test_a_head_for_another_width_is_an_error():
    with pytest.raises(WeightsError, match="takes width 6"):
        TextTower(CONFIG, TextHead(6, 4), encoder_factory=CountingEncoder)


# -- the published text side in miniature ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden(golden_dir) -> tuple[Path, dict, dict[str, torch.Tensor], TextEncoderConfig, dict[str, torch.Tensor]]:
    folder = (golden_dir / "sattxt").resolve()
    config = TextEncoderConfig(
        kind="llm2vec",
        hidden_size=48,
        weights_sha256=LLM_DIGEST,
        base=ModelSource(str(folder / "llama")),
        adapters=(ModelSource(str(folder / "llm2vec-mntp")), ModelSource(str(folder / "llm2vec-mntp-unsup-simcse"))),
        template="<|start_header_id|>user<|end_header_id|>\n\n{text}<|eot_id|>",
        max_text_tokens=400,
        padding_side="left",
    )
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    head = torch.load(folder / "sattxt_text_head.pt", weights_only=True)
    return folder, meta, load_file(folder / "expected.safetensors"), config, head


def test_golden_text_embeddings_then_from_the_cache_with_the_llm_gone(golden, cache, tmp_path):
    _, meta, expected, config, head = golden
    tower = open_text_tower(config, head, None, cache=cache)
    np.testing.assert_allclose(tower.embed(meta["prompts"]).numpy(), expected["text_embeds"].numpy(), atol=1e-5)
    instructed = tower.embed(meta["prompts"][:10], instruction=meta["instruction"])
    np.testing.assert_allclose(instructed.numpy(), expected["text_embeds_instruction"].numpy(), atol=1e-5)

    gone = replace(config, base=ModelSource(str(tmp_path / "gone")), adapters=())
    later = open_text_tower(gone, head, None, cache=cache)
    np.testing.assert_allclose(later.embed(meta["prompts"]).numpy(), expected["text_embeds"].numpy(), atol=1e-5)
    with pytest.raises(TextEncoderUnavailableError, match=r"'a new prompt'.*gone"):
        later.embed(["a new prompt"])


def test_a_sentence_encoder_that_is_not_there_is_told():
    tower = open_text_tower(CONFIG, _head().state_dict(), None)
    with pytest.raises(TextEncoderUnavailableError, match="text_encoder/"):
        tower.embed("river")


def test_a_head_that_gives_no_numbers_is_told():
    tower = _tower(CountingEncoder(), dtype="bfloat16")
    tower.head.proj.weight.data.fill_(float("nan"))
    with pytest.raises(WeightsError, match="the text side gives NaN or infinity in bfloat16; pass dtype='float32'"):
        tower.embed("river")


def test_a_bar_is_shown_only_where_it_is_asked_for():
    tower = _tower(encoder := CountingEncoder())
    for ask in (tower.pooled, tower.embed, tower.bank):
        ask(f"plain {ask.__name__}")
        assert encoder.progress is False
        ask(f"shown {ask.__name__}", progress=True)
        assert encoder.progress is True
