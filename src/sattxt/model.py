"""`SatTxt`: the public class. It reads like a table of contents; the modules it calls do the work."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from sattxt.classify.classifier import Classifier, Classifiers, LabelInput, ZeroShotOptions
from sattxt.classify.fit import FitReference
from sattxt.classify.results import ZeroShotBatch, ZeroShotResult
from sattxt.config import ImageConfig, ModelConfig, image_config
from sattxt.errors import InputError
from sattxt.images.load import is_single
from sattxt.images.options import ReadOptions, merge_options
from sattxt.images.read import to_rgb
from sattxt.io import check_new
from sattxt.segment import Segmentation, segment_image
from sattxt.text.cache import TextCache
from sattxt.text.label_bank import LabelBank
from sattxt.text.tower import TextTower, open_text_tower
from sattxt.vision.backend import open_tower
from sattxt.vision.device import DTYPES, resolve_device
from sattxt.vision.embeddings import Embeddings, FloatArray, Matrix, Vector, similarity
from sattxt.vision.encode import DEFAULT_BATCH, EncodeOptions, ImageEncoder
from sattxt.vision.openvino import OpenVinoTower
from sattxt.vision.tower import ImageTokens, VisionTower
from sattxt.weights.directory import StoredModel, copy_model, fingerprint, read_model
from sattxt.weights.resolver import push_model, resolve

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from sattxt.images.read import Tile, Tiles


class SatTxt:
    """RGB satellite tiles and text in one embedding space.

    Open one with :meth:`from_pretrained`. The constructor takes parts already in memory. ``config`` is what the model
    is made of; ``vision``, the image side, gives pixel values and tokens too; ``text``, the text side, token ids;
    ``fit`` tells whether any label fits (``None``: the model cannot).
    """

    def __init__(
        self,
        config: ModelConfig,
        vision: VisionTower | OpenVinoTower,
        text: TextTower,
        *,
        device: torch.device,
        dtype: torch.dtype,
        stored: StoredModel | None = None,
    ) -> None:
        self.config = config
        self.vision = ImageEncoder(vision, config.image, device=device, dtype=dtype)
        self.text = text
        self._stored = stored
        self.fit = FitReference.of(stored.fit) if stored is not None and stored.fit else None
        self._classifiers = Classifiers(config, text, self.vision, self.fit)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] = "sattxt-mini",
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        backend: Literal["auto", "torch", "openvino"] = "auto",
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        device_map: str | None = None,
        preprocess: str | dict[str, Any] | ImageConfig | None = None,
        text_cache: str | os.PathLike[str] | TextCache | bool = True,
    ) -> SatTxt:
        """Open a model.

        Args:
            name_or_path: ``"sattxt-mini"`` (bundled, offline), ``"sattxt-vitl16"`` (the published weights, from the
                hub), a model directory, or a hub id that :meth:`push_to_hub` wrote.
            revision, cache_dir, local_files_only, token: as in ``huggingface_hub``. With ``local_files_only`` (or
                ``HF_HUB_OFFLINE=1``) nothing is downloaded.
            backend, dtype: what runs the image side, in which precision. ``"auto"``: the fastest, measured once a
                machine and model, of torch's float32 and bfloat16 and (extra ``openvino``) the int8 that the model
                ships. OpenVINO takes ``"float32"`` and ``"int8"``; the text encoder takes torch's precisions too.
            device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; default: CUDA where there is one.
            device_map: ``"auto"`` spreads a large text encoder over the devices there are (extra ``llm``).
            preprocess: another pixel scaling: ``"official"``, ``"unit"``, ``"dinov3-sat"``, or a dict with any of
                ``rescale``, ``mean``, ``std``, ``size`` (side to which tiles are resized, in pixels) and ``window``.
            text_cache: path of the text cache; ``False`` keeps nothing on disk; a :class:`TextCache` is used as it is.

        Raises:
            UnknownModelError, GatedModelError, OfflineError, HubError: the model cannot be had. WeightsError,
                ChecksumError: its files are damaged or do not fit its config. InputError: an argument means nothing, or
                no such form is there. MissingExtraError: OpenVINO is not.
        """
        torch_device = resolve_device(device)
        hub: dict[str, Any] = {"cache_dir": cache_dir, "local_files_only": local_files_only, "token": token}
        path = resolve(name_or_path, revision=revision, **hub)
        stored = read_model(path, vision=False)
        config = stored.config
        if preprocess is not None:
            config = replace(config, image=image_config(preprocess, config.image))
        vision = open_tower(path, config, backend=backend, dtype=dtype, device=torch_device)
        text = open_text_tower(
            config.text,
            stored.text_head,
            stored.text_encoder_dir,
            cache=text_cache,
            dtype=DTYPES.get(str(dtype).removeprefix("torch.")),
            device=torch_device,
            device_map=device_map,
            **hub,
        )
        stored = replace(stored, config=config, text_head={})  # the tower holds it now
        return cls(config, vision, text, device=torch_device, dtype=vision.dtype, stored=stored)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> Path:
        """Write the model as a directory that :meth:`from_pretrained` opens, its pixel scaling included."""
        return copy_model(self._files(), Path(directory))

    def export_openvino(
        self, directory: str | os.PathLike[str], *, quantize: Literal["int8"] | None = "int8", calibration: Any = None
    ) -> Path:
        """Write the model with its image side as OpenVINO (extra ``openvino``) runs it, in int8 or (``None``) float32.

        ``calibration``, a few hundred images like those to come, tells int8 what ranges it needs; default: drawn ones.
        """
        from sattxt.vision.quantize import add_form

        form = add_form(self.config, self.vision.preprocess, quantize or "float32", calibration)
        return copy_model(self._files(), Path(directory), form)

    def push_to_hub(
        self, repo_id: str, *, token: str | None = None, private: bool = False, revision: str | None = None
    ) -> str:
        """Upload the model directory, model card included, to ``repo_id``; returns the address of the commit."""
        return push_model(self._files(), repo_id, token=token, private=private, revision=revision)

    def _files(self) -> StoredModel:
        if self._stored is None:
            raise InputError("this model was not opened from files; write it with sattxt.weights.directory.write_model")
        return self._stored

    @property
    def device(self) -> torch.device:
        """Where images are encoded."""
        return self.vision.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision in which images are encoded."""
        return self.vision.dtype

    @property
    def backend(self) -> str:
        """What encodes images: ``"torch"`` or ``"openvino"``."""
        return self.vision.tower.backend

    @property
    def embed_dim(self) -> int:
        """Width D of the shared space."""
        return self.config.embed_dim

    @property
    def fingerprint(self) -> str:
        """16 hex digits over weights, config and pixel scaling; equal ones mean equal embeddings at one dtype."""
        return fingerprint(self.config, self._stored, self.vision.precision, self.vision.tower)

    def to(self, device: str | torch.device) -> SatTxt:
        """Move the image tower and text head to ``device``; returns self. The precision is kept."""
        self.vision.to(resolve_device(device))
        self.text.to(self.device)
        return self

    def __repr__(self) -> str:
        return (
            f"SatTxt({self.config.name}, embed_dim={self.embed_dim}, device={self.device}, "
            f"dtype={self.vision.precision}, backend={self.backend}, "
            f"preprocess={self.config.image.preset})"
        )

    @overload
    def encode_image(self, images: Tile, **options: Unpack[EncodeOptions]) -> Vector: ...  # type: ignore[overload-overlap]  # a str is an iterable of them
    @overload
    def encode_image(self, images: Tensor, **options: Unpack[EncodeOptions]) -> FloatArray: ...
    @overload
    def encode_image(self, images: Tiles, **options: Unpack[EncodeOptions]) -> Embeddings: ...
    def encode_image(self, images: Any, **options: Any) -> FloatArray:
        """Embed RGB tiles. Blank tiles (all black or all white, as where there is no data) are logged.

        Args:
            images: one tile (path, open file or rasterio dataset, PIL image, grey/HWC/CHW array or tensor); or several:
                a list, iterable, pandas Series or 4-D array, a folder, a glob, or what ``vision.preprocess`` gave.
            batch_size, workers: tiles read and encoded together (64), threads that read files (default: one a core).
            on_error: ``"skip"`` leaves out tiles that cannot be read; see ``failures`` and ``indices`` of the result.
            progress: show a bar on stderr. normalize: ``False`` gives the raw [cls ; mean(patch)], not of length 1.
            options: how to read what is not plain 8-bit RGB, :class:`ImageOptions`; or its fields by name:
                ``stretch=``, ``bands=``, ``channels=``, ``value_range=``, ``offset=``, ...

        Returns:
            float32: (D,) for one tile; for several (N, D) :class:`Embeddings`, an array with ``failures`` beside it.

        Raises:
            ImageError: a tile cannot be read, or not without guessing; ``completed`` holds the :class:`Embeddings` of
                the tiles before it. With ``on_error="skip"`` only for the one tile given.
        """
        found = self.vision.encode(images, **options)
        return found[0] if is_single(images) else found

    def image_tokens(self, images: Any, **options: Unpack[ReadOptions]) -> ImageTokens:
        """Patch and class tokens of one image or several, float32; options and errors as in :meth:`encode_image`."""
        return self.vision.tokens(self.vision.preprocess(images, **options))

    @overload
    def encode_text(  # type: ignore[overload-overlap]  # a str is a sequence of them
        self, texts: str, *, instruction: str | None = None, normalize: bool = True, progress: bool = False
    ) -> Vector: ...
    @overload
    def encode_text(
        self, texts: Sequence[str], *, instruction: str | None = None, normalize: bool = True, progress: bool = False
    ) -> Matrix: ...
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
        embedding = self.text.embed(texts, instruction=instruction, progress=progress)
        if normalize:
            embedding = F.normalize(embedding, dim=-1)
        vectors: FloatArray = embedding.cpu().numpy()
        return vectors[0] if isinstance(texts, str) else vectors

    similarity = staticmethod(similarity)

    @overload
    def zero_shot(
        self, images: Matrix, labels: LabelInput | None = None, **options: Unpack[ZeroShotOptions]
    ) -> ZeroShotBatch: ...
    @overload
    def zero_shot(  # type: ignore[overload-overlap]  # a str is an iterable of them
        self, images: Tile | Vector, labels: LabelInput | None = None, **options: Unpack[ZeroShotOptions]
    ) -> ZeroShotResult: ...
    @overload
    def zero_shot(
        self, images: Tensor, labels: LabelInput | None = None, **options: Unpack[ZeroShotOptions]
    ) -> ZeroShotResult | ZeroShotBatch: ...
    @overload
    def zero_shot(
        self, images: Tiles | Iterable[Vector], labels: LabelInput | None = None, **options: Unpack[ZeroShotOptions]
    ) -> ZeroShotBatch: ...
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
        """Classify tiles by labels given as text.

        Args:
            images: what a :class:`Classifier` takes, tiles or their embeddings. options: as in :meth:`encode_image`.
            labels, label_set, templates, instruction, multi_label: as in :meth:`classifier`.

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
            label_set: instead of ``labels``, the name of one, such as ``"eurosat"`` (see :func:`list_label_sets`).
            templates: one with ``{}`` in it, several (a label's embeddings are averaged and renormalised),
                ``"ensemble"``, or ``"{}"`` for prompts that are complete; default: the model's own.
            multi_label: give every label its own probability, contrasted with "none of these".

        Raises:
            LabelError: no labels, duplicates, or an unknown label set.
            InputError: a template without exactly one ``{}``.
        """
        prompts = (labels, label_set, templates, instruction)
        return self._classifiers.make(*prompts, multi_label=multi_label, progress=progress)

    def export_labels(
        self,
        path: str | os.PathLike[str],
        labels: LabelInput | None = None,
        *,
        label_set: str | None = None,
        templates: str | Sequence[str] | None = None,
        instruction: str | None = None,
        overwrite: bool = False,
        progress: bool = False,
    ) -> LabelBank:
        """Write the labels' text vectors to a label bank, for machines without the text encoder; the backgrounds of
        multi-label mode go with them. Arguments: as in :meth:`classifier`. Without ``overwrite``, no file is replaced.
        """
        check_new(Path(path), overwrite=overwrite)
        bank = labels
        if not isinstance(bank, LabelBank):
            bank = self._classifiers.bank(bank, label_set, templates, instruction, progress=progress)
        bank.save(path, overwrite=overwrite)
        return bank

    def import_labels(self, path: str | os.PathLike[str]) -> LabelBank:
        """Use a label bank's text vectors from now on; pass the returned bank as ``labels`` to use its label set.

        Raises:
            CacheError: the file is damaged or no label bank.
            BankMismatchError: it was made by another text encoder than this model's.
        """
        bank = LabelBank.load(path)
        self.text.add_bank(bank)
        return bank

    def segment(
        self,
        image: Any,
        labels: LabelInput | None = None,
        *,
        label_set: str | None = None,
        templates: str | Sequence[str] | None = None,
        instruction: str | None = None,
        window: int | None = None,
        gsd: float | None = None,
        overlap: float = 0.5,
        batch_size: int | None = None,
        progress: bool = False,
        **options: Unpack[ReadOptions],
    ) -> Segmentation:
        """Open-vocabulary segmentation of an image of any size, from patch tokens.

        Args:
            labels, label_set, templates, instruction: as in :meth:`classifier`.
            window: side in pixels of the squares the image is cut into. Smaller is finer, sees less around each place
                and takes longer. Default: ``config.image.window`` (sattxt-mini: 56), else the input size.
            gsd: metres a pixel, where they are known; below 1 the default window is half as wide.
            overlap: share of a window that the next one repeats, in [0, 0.9]; their scores are blended.

        Returns:
            :class:`Segmentation` with ``label_map`` (H, W) and per-label ``scores`` (K, H, W).
        """
        classifier = self.classifier(labels, label_set=label_set, templates=templates, instruction=instruction)
        return segment_image(
            to_rgb(image, merge_options(options)),
            classifier.labels,
            classifier.weights,
            self.vision.tokens,
            self.config.image,
            logit_scale=self.config.logit_scale,
            window=window,
            gsd=gsd,
            overlap=overlap,
            batch_size=batch_size or DEFAULT_BATCH,
            progress=progress,
        )
