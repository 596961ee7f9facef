"""`SatTxt`: the façade. It reads like a table of contents; the work is done by the modules it calls."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sattxt.classify.classifier import Calibration, Classifier, label_weights
from sattxt.classify.results import Embeddings, FloatArray, ZeroShotBatch, ZeroShotResult
from sattxt.config import ImageConfig, ModelConfig, image_config
from sattxt.errors import BankMismatchError, InputError
from sattxt.images.load import source_name
from sattxt.images.read import ImageOptions, to_rgb
from sattxt.labels.prompts import BACKGROUNDS, label_prompts
from sattxt.segment import Segmentation, segment_image
from sattxt.text.cache import TextCache
from sattxt.text.label_bank import LabelBank
from sattxt.text.tower import TextTower, fingerprint, open_text_tower
from sattxt.vision.device import resolve_device, resolve_dtype
from sattxt.vision.encode import DEFAULT_BATCH, Encoded, ImageEncoder, OnError, merge_options
from sattxt.vision.tower import ImageTokens, VisionTower, load_tower
from sattxt.weights.checksums import read_sums
from sattxt.weights.directory import VISION_FILE, StoredModel, read_model
from sattxt.weights.resolver import resolve

LabelInput = Sequence[str] | Mapping[str, str | Sequence[str]] | LabelBank
_KEPT_CLASSIFIERS = 32
_ENCODING = ("batch_size", "workers", "on_error", "progress", "normalize")


class SatTxt:
    """RGB satellite tiles and text in one embedding space.

    Open one with :meth:`from_pretrained`. The constructor takes parts already in memory.
    """

    def __init__(
        self,
        config: ModelConfig,
        vision: VisionTower,
        text: TextTower,
        *,
        device: torch.device,
        dtype: torch.dtype,
        stored: StoredModel | None = None,
    ) -> None:
        self.config = config
        self._images = ImageEncoder(vision, config.image, device=device, dtype=dtype)
        self._text = text
        self._stored = stored
        self._classifiers: dict[Any, Classifier] = {}

    # -- opening and saving ------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] = "sattxt-mini",
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        device_map: str | None = None,
        preprocess: str | dict[str, Any] | ImageConfig | None = None,
        text_cache: str | os.PathLike[str] | TextCache | bool = True,
        text_precision: Literal["float32", "float16"] = "float32",
    ) -> SatTxt:
        """Open a model.

        Args:
            name_or_path: ``"sattxt-mini"`` (bundled, offline), ``"sattxt-vitl16"`` (the published weights, from the
                hub), a model directory, or a hub id that :meth:`push_to_hub` wrote.
            revision, cache_dir, local_files_only, token: as in ``huggingface_hub``. With ``local_files_only`` (or
                ``HF_HUB_OFFLINE=1``) nothing is downloaded.
            dtype: ``"auto"`` is bfloat16 on CUDA and on CPUs with AMX or AVX512-bf16, else float32 (for the image
                side; the text encoder keeps the precision its config names). A given dtype holds for both sides.
            device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; default: CUDA where there is one.
            device_map: ``"auto"`` spreads a large text encoder over the devices there are (extra ``llm``).
            preprocess: overrides the stored pixel scaling: ``"official"``, ``"unit"``, ``"dinov3-sat"``, or a dict
                with any of ``rescale``, ``mean``, ``std``, ``size`` (the side that tiles are resized to: larger
                takes longer) and ``window`` (see :meth:`segment`).
            text_cache: path of the text cache; ``False`` keeps nothing on disk; a :class:`TextCache` is used as it is.
            text_precision: of newly cached text vectors; ``"float16"`` halves the file and rounds them.

        Raises:
            UnknownModelError, GatedModelError, OfflineError, HubError: the model cannot be had.
            WeightsError, ChecksumError: its files are damaged or do not fit its config.
            InputError: an argument is not one of the values above.
        """
        if not isinstance(name_or_path, (str, os.PathLike)):
            raise InputError(f"a model is named by a text or a path, not {type(name_or_path).__name__}")
        torch_device = resolve_device(device)
        torch_dtype = resolve_dtype(dtype, torch_device)
        path = resolve(
            name_or_path, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only, token=token
        )
        stored = read_model(path)
        config = stored.config
        if preprocess is not None:
            config = replace(config, image=image_config(preprocess, config.image))
        vision = load_tower(config.vision, stored.vision, path / VISION_FILE)
        text = open_text_tower(
            config.text,
            stored.text_head,
            stored.text_encoder_dir,
            cache=_open_cache(text_cache, text_precision),
            dtype=None if dtype == "auto" else torch_dtype,
            device=torch_device,
            device_map=device_map,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
        )
        # The tensors live in the towers now; saving copies the files.
        stored = replace(stored, config=config, vision={}, text_head={})
        return cls(config, vision, text, device=torch_device, dtype=torch_dtype, stored=stored)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> Path:
        """Write the model as a directory that :meth:`from_pretrained` opens, its pixel scaling included."""
        from sattxt.weights.directory import copy_model

        if self._stored is None:
            raise InputError("this model was not opened from files; write it with sattxt.weights.directory.write_model")
        return copy_model(self._stored, Path(directory))

    def push_to_hub(
        self, repo_id: str, *, token: str | None = None, private: bool = False, revision: str | None = None
    ) -> str:
        """Upload the model directory, model card included, to ``repo_id``; returns the address of the commit."""
        from sattxt.weights.hub import push_model

        if self._stored is None:
            raise InputError("this model was not opened from files; write it with sattxt.weights.directory.write_model")
        return push_model(self._stored, repo_id, token=token, private=private, revision=revision)

    # -- what it is --------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where images are encoded."""
        return self._images.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision in which images are encoded."""
        return self._images.dtype

    @property
    def embed_dim(self) -> int:
        """Width D of the shared space."""
        return self.config.embed_dim

    @property
    def fingerprint(self) -> str:
        """16 hex digits over weights, config and pixel scaling; equal ones mean equal embeddings at one dtype."""
        # No embedding depends on the window, nor on where the language model lies: its weights_sha256 counts.
        text = replace(self.config.text, base=None, adapters=())
        config = replace(self.config, image=replace(self.config.image, window=None), text=text)
        digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode())
        if self._stored is not None:
            sums = read_sums(self._stored.path)  # the card and config.json are no weights
            digest.update(repr(sorted(s for s in sums.items() if s[0].endswith(".safetensors"))).encode())
        else:
            for name, tensor in self._images.tower.state_dict().items():
                digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def to(self, device: str | torch.device) -> SatTxt:
        """Move the image tower and text head to ``device``; returns self. The precision is kept."""
        chosen = resolve_device(device)
        self._images.to(chosen)
        self._text.to(chosen)
        return self

    def __repr__(self) -> str:
        return (
            f"SatTxt({self.config.name}, embed_dim={self.embed_dim}, device={self.device}, "
            f"dtype={str(self.dtype).removeprefix('torch.')}, preprocess={self.config.image.preset})"
        )

    # -- images ------------------------------------------------------------------------------------------------

    def encode_image(
        self,
        images: Any,
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        on_error: OnError = "raise",
        progress: bool = False,
        normalize: bool = True,
        options: ImageOptions | None = None,
        **image_options: Any,
    ) -> FloatArray | Embeddings:
        """Embed RGB tiles. Tiles that are all black or all white, as where there is no data, are logged.

        Args:
            images: one tile (path, open file, PIL image, grey/HWC/CHW array or tensor), or a list, iterable or 4-D
                array of tiles.
            batch_size: tiles that are read and encoded together (default 64); on a CPU the encoder takes fewer at a
                time where more would not fit into the cache, which changes nothing but speed.
            workers: threads that read files (default: one a core).
            on_error: ``"skip"`` leaves unreadable tiles out and lists them in the result's ``failures``.
            normalize: ``False`` returns the raw [cls ; mean(patch)] without L2 normalisation.
            options, image_options: how to read what is not plain 8-bit RGB: ``stretch=``, ``bands=``, ``channels=``,
                ``value_range=``, ``offset=``, ... (see :class:`ImageOptions`).

        Returns:
            float32: (D,) for one tile, (N, D) for several; :class:`Embeddings` where ``on_error="skip"``.

        Raises:
            ImageError: a tile cannot be read, or not without guessing; the message names it; ``completed`` holds the
                embeddings of those before it.
            InputError: an option is not known.
        """
        found = self._images.embed(
            images,
            merge_options(options, image_options),
            batch_size=batch_size,
            workers=workers,
            on_error=on_error,
            progress=progress,
            normalize=normalize,
        )
        if on_error == "skip":
            return Embeddings(found.vectors, found.indices, found.failures)
        return found.vectors[0] if found.single else found.vectors

    def preprocess(self, images: Any, *, options: ImageOptions | None = None, **image_options: Any) -> Tensor:
        """(N, 3, S, S) float32 pixel values of one tile or several, as the backbone gets them."""
        return self._images.preprocess(images, merge_options(options, image_options))

    def image_tokens(self, images: Any, *, options: ImageOptions | None = None, **image_options: Any) -> ImageTokens:
        """Backbone and head tokens of one tile or several, float32, on the model's device."""
        return self._images.tokens(self.preprocess(images, options=options, **image_options))

    def _embed(self, images: Any, **options: Any) -> Encoded:
        """What a classifier calls: reading options and encoding options together."""
        encoding = {key: options.pop(key) for key in list(options) if key in _ENCODING}
        return self._images.embed(images, merge_options(options.pop("options", None), options), **encoding)

    # -- text --------------------------------------------------------------------------------------------------

    def encode_text(
        self,
        texts: str | Sequence[str],
        *,
        instruction: str | None = None,
        normalize: bool = True,
        progress: bool = False,
    ) -> FloatArray:
        """Embed texts; what the cache or an imported label bank holds is not encoded again.

        Args:
            texts: one text, or a list. They are taken as they are: no template is applied.
            instruction: put before every text; it steers the encoder and is not pooled (SATtxt, section 3.2).

        Returns:
            float32, L2-normalised unless ``normalize=False``: (D,) for one text, (N, D) for a list.

        Raises:
            InputError: a text is empty or not a string.
            TextEncoderUnavailableError: a text is not cached and the encoder cannot be loaded.
            NotEnoughMemoryError: the encoder does not fit in this machine's memory.
        """
        single = isinstance(texts, str)
        embedding = self._text.embed(texts, instruction=instruction, progress=progress)
        if normalize:
            embedding = F.normalize(embedding, dim=-1)
        vectors: FloatArray = embedding.cpu().numpy()
        return vectors[0] if single else vectors

    def tokenize(self, texts: str | Sequence[str], *, instruction: str | None = None) -> dict[str, Tensor]:
        """What the text encoder reads: ``input_ids``, ``attention_mask``, ``embed_mask`` (pooled), (N, L) int64."""
        return self._text.tokenize([texts] if isinstance(texts, str) else list(texts), instruction=instruction)

    @staticmethod
    def similarity(a: Any, b: Any) -> FloatArray:
        """Cosine similarity of embeddings: (N, D) and (M, D) to (N, M) float32; a (D,) side loses its axis."""
        try:
            left, right = (np.asarray(v, dtype=np.float32) for v in (a, b))
        except (TypeError, ValueError) as error:
            raise InputError("similarity takes embeddings; encode_image and encode_text make them") from error
        if not (np.isfinite(left).all() and np.isfinite(right).all()):
            raise InputError("the embeddings hold NaN or infinite values")
        if left.ndim not in (1, 2) or right.ndim not in (1, 2) or left.shape[-1] != right.shape[-1]:
            raise InputError(f"similarity needs (N, D) and (M, D) embeddings, got {left.shape} and {right.shape}")
        unit = [v / np.linalg.norm(v, axis=-1, keepdims=True).clip(1e-12) for v in (left, right)]
        return np.asarray(unit[0] @ unit[1].T, dtype=np.float32)

    # -- labels ------------------------------------------------------------------------------------------------

    def zero_shot(
        self,
        images: Any,
        labels: LabelInput | None = None,
        *,
        label_set: str | None = None,
        templates: str | Sequence[str] | None = None,
        instruction: str | None = None,
        multi_label: bool = False,
        **options: Any,
    ) -> ZeroShotResult | ZeroShotBatch:
        """Classify tiles by labels given as text. ``options`` are those of :meth:`encode_image`; the rest as in
        :meth:`classifier`.

        Returns:
            A :class:`ZeroShotResult` for one tile, a :class:`ZeroShotBatch` for several.
        """
        classifier = self.classifier(
            labels, label_set=label_set, templates=templates, instruction=instruction, multi_label=multi_label
        )
        return classifier(images, **options)

    def classifier(
        self,
        labels: LabelInput | None = None,
        *,
        label_set: str | None = None,
        templates: str | Sequence[str] | None = None,
        instruction: str | None = None,
        multi_label: bool = False,
        progress: bool = False,
    ) -> Classifier:
        """Encode a set of labels once, to score any number of tiles against.

        Args:
            labels: a list of labels, a dict of label to synonyms, or a :class:`LabelBank`.
            label_set: instead of ``labels``: the name of one, such as ``"eurosat"`` (see :func:`list_label_sets`).
            templates: one with ``{}`` in it, several (a label's embeddings are averaged and renormalised),
                ``"ensemble"``, or ``"{}"`` for prompts that are complete; default: the model's own.
            multi_label: give every label its own probability, contrasted with "none of these".

        Raises:
            LabelError: no labels, duplicates, or an unknown label set.
            InputError: a template without exactly one ``{}``.
        """
        asked = (_frozen(labels), label_set, _frozen(templates), instruction, multi_label)
        known = self._classifiers.get(asked)
        if known is not None:
            return known
        if isinstance(labels, LabelBank):
            self._check_bank(labels)
            self._text.add_bank(labels)
            prompts, instruction = _bank_prompts(labels), labels.instruction
        else:
            prompts = self._prompts(labels, label_set, templates)
        texts = [text for group in prompts.values() for text in group]
        backgrounds = self._backgrounds if multi_label else []
        vectors = self.encode_text(texts + backgrounds, instruction=instruction, progress=progress)
        classifier = Classifier(
            tuple(prompts),
            label_weights(vectors, [len(group) for group in prompts.values()]),
            Calibration.of(self.config),
            self._embed,
            vectors[len(texts) :] if multi_label else None,
        )
        if asked[0] is not None and asked[2] is not None:
            self._classifiers[asked] = classifier
            if len(self._classifiers) > _KEPT_CLASSIFIERS:
                self._classifiers.pop(next(iter(self._classifiers)))
        return classifier

    def _prompts(
        self,
        labels: Sequence[str] | Mapping[str, str | Sequence[str]] | None,
        label_set: str | None,
        templates: str | Sequence[str] | None,
    ) -> dict[str, list[str]]:
        return label_prompts(labels, label_set=label_set, templates=templates, default=self.config.prompt_templates)

    @property
    def _backgrounds(self) -> list[str]:
        """What multi-label probabilities are contrasted with."""
        return list(self.config.backgrounds or BACKGROUNDS)

    def export_labels(
        self,
        path: str | os.PathLike[str],
        labels: LabelInput | None = None,
        *,
        label_set: str | None = None,
        templates: str | Sequence[str] | None = None,
        instruction: str | None = None,
        precision: Literal["float32", "float16"] = "float32",
        progress: bool = False,
    ) -> LabelBank:
        """Write the labels' text vectors to a label bank, for machines without the text encoder. Arguments as in
        :meth:`classifier`; the background prompts of multi-label mode go with them.
        """
        if isinstance(labels, LabelBank):
            labels.save(path, precision=precision)
            return labels
        prompts = self._prompts(labels, label_set, templates)
        texts = [text for group in prompts.values() for text in group]
        unique = list(dict.fromkeys([*texts, *self._backgrounds]))
        bank = self._text.bank(
            unique, labels=prompts, model=self.config.name, instruction=instruction, progress=progress
        )
        bank.save(path, precision=precision)
        return bank

    def import_labels(self, path: str | os.PathLike[str]) -> LabelBank:
        """Use a label bank's text vectors from now on; pass the returned bank as ``labels`` to use its label set.

        Raises:
            CacheError: the file is damaged or no label bank.
            BankMismatchError: it was made by another text encoder than this model's.
        """
        bank = LabelBank.load(path)
        self._check_bank(bank, str(path))
        self._text.add_bank(bank)
        return bank

    def _check_bank(self, bank: LabelBank, name: str = "this label bank") -> None:
        expected = fingerprint(self.config.text, bank.instruction)
        if bank.space != expected:
            raise BankMismatchError(
                f"{name} was made by another text encoder ({bank.model}); build it again with "
                f"`sattxt labels build --model {self.config.name}`"
            )

    # -- dense -------------------------------------------------------------------------------------------------

    def segment(
        self,
        image: Any,
        labels: LabelInput | None = None,
        *,
        label_set: str | None = None,
        templates: str | Sequence[str] | None = None,
        instruction: str | None = None,
        window: int | None = None,
        overlap: float = 0.5,
        batch_size: int | None = None,
        progress: bool = False,
        options: ImageOptions | None = None,
        **image_options: Any,
    ) -> Segmentation:
        """Open-vocabulary segmentation of an image of any size, from patch tokens.

        Args:
            window: side in pixels of the overlapping squares the image is cut into. A smaller one gives a finer map
                that sees less around each place, and takes more of them. Default: what the model's config names
                (``config.image.window``; 56 for sattxt-mini), or else its input size.
            overlap: share of a window that the next one repeats, in [0, 0.9]; their scores are blended.

        Returns:
            :class:`Segmentation` with ``label_map`` (H, W) and per-label ``scores`` (K, H, W).
        """
        classifier = self.classifier(labels, label_set=label_set, templates=templates, instruction=instruction)
        rgb = to_rgb(image, merge_options(options, image_options), name=source_name(image, None))
        return segment_image(
            rgb,
            classifier.labels,
            classifier.weights,
            self._images.tokens,
            self.config.image,
            logit_scale=self.config.logit_scale,
            window=window,
            overlap=overlap,
            batch_size=batch_size or DEFAULT_BATCH,
            progress=progress,
        )


def _open_cache(
    value: str | os.PathLike[str] | TextCache | bool, precision: Literal["float32", "float16"]
) -> TextCache | None:
    if value is False:
        return None
    if isinstance(value, TextCache):
        return value
    return TextCache(None if value is True else Path(value), precision=precision)


def _frozen(value: Any) -> Any:
    """Labels or templates as a hashable value, by content; None where they are not lists, dicts or strings."""
    if value is None or isinstance(value, str):
        return (value,)
    if isinstance(value, Mapping):
        items = [(key, _frozen(item)) for key, item in value.items()]
        return None if any(item is None for _, item in items) else ("dict", tuple(items))
    if isinstance(value, (list, tuple)) and (set(map(type, value)) <= {str} or all(isinstance(v, str) for v in value)):
        return ("list", tuple(value))
    return None


def _bank_prompts(bank: LabelBank) -> dict[str, list[str]]:
    return {k: list(v) for k, v in bank.labels.items()} if bank.labels else {text: [text] for text in bank.texts}
