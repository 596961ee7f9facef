"""Other models measured by the same code: open_clip, and CLIP or SigLIP of transformers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sattxt.classify.results import FloatArray
from sattxt.errors import InputError, MissingExtraError, UnknownModelError
from sattxt.evaluation.encoder import Image, combined, default_templates, digest_tensors, unit
from sattxt.io import first_line

BATCH = 64


class _Peer(ABC):
    """What both kinds share: batching, unit length, the facts for a result."""

    kind = ""

    def __init__(self, name: str, model: Any, facts: Any, *, batch_size: int | None, device: str | None) -> None:
        import torch

        self.name = name
        self.templates = default_templates()
        self._batch_size = batch_size or BATCH
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._model = model.to(self._device).eval()
        scale = getattr(model, "logit_scale", None)
        self.logit_scale = float(scale.detach().exp()) if scale is not None else 100.0
        dtype = next(iter(model.parameters())).dtype
        self._dtype = dtype
        self.fingerprint = combined(digest_tensors(model.state_dict()), facts, str(dtype), self._device.type)
        self._width: int | None = None

    def describe(self) -> dict[str, Any]:
        """See :class:`~sattxt.evaluation.encoder.Encoder`."""
        return {
            "name": self.name,
            "kind": self.kind,
            "fingerprint": self.fingerprint,
            "embed_dim": self._width,
            "logit_scale": self.logit_scale,
            "dtype": str(self._dtype).removeprefix("torch."),
            "device": str(self._device),
        }

    def encode_images(self, images: Sequence[Image]) -> FloatArray:
        """See :class:`~sattxt.evaluation.encoder.Encoder`."""
        return self._batched([_as_uint8(image) for image in images], self._images)

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """See :class:`~sattxt.evaluation.encoder.Encoder`."""
        return self._batched(list(texts), self._texts)

    def _batched(self, items: Sequence[Any], run: Any) -> FloatArray:
        import torch

        parts = []
        with torch.inference_mode():
            for start in range(0, len(items), self._batch_size):
                features = run(items[start : start + self._batch_size])
                parts.append(unit(features.float().cpu().numpy()))
        found = np.concatenate(parts)
        self._width = found.shape[1]
        return found

    @abstractmethod
    def _images(self, images: Sequence[Image]) -> Any:
        """(n, D) features of images."""

    @abstractmethod
    def _texts(self, texts: Sequence[str]) -> Any:
        """(n, D) features of texts."""


class TransformersEncoder(_Peer):
    """A CLIP, SigLIP or SigLIP 2 model of transformers with its image processor and tokenizer."""

    kind = "transformers"

    def __init__(
        self,
        name: str,
        model: Any,
        image_processor: Any,
        tokenizer: Any,
        *,
        batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        self._process = image_processor
        self._tokenize = tokenizer
        super().__init__(name, model, image_processor.to_dict(), batch_size=batch_size, device=device)
        self._length = int(model.config.text_config.max_position_embeddings)
        # SigLIP was trained on texts padded to full length and sees the padding; CLIP masks it.
        self._padding: str | bool = "max_length" if model.config.model_type.startswith("siglip") else True

    @classmethod
    def open(
        cls, location: str, *, offline: bool = False, batch_size: int | None = None, device: str | None = None
    ) -> TransformersEncoder:
        """A model from a folder or the hub.

        Raises:
            UnknownModelError: it cannot be opened. InputError: it is of another kind.
        """
        from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

        try:
            config = AutoConfig.from_pretrained(location, local_files_only=offline)
            if config.model_type not in ("clip", "siglip", "siglip2"):
                raise InputError(f"transformers:{location} is a {config.model_type}; clip, siglip and siglip2 are read")
            model = AutoModel.from_pretrained(location, local_files_only=offline)
            processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call, unused-ignore]
                location, local_files_only=offline
            )
            tokenizer = AutoTokenizer.from_pretrained(location, local_files_only=offline)
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise UnknownModelError(f"transformers:{location} cannot be opened ({first_line(error)})") from error
        return cls(f"transformers:{location}", model, processor, tokenizer, batch_size=batch_size, device=device)

    def _images(self, images: Sequence[Image]) -> Any:
        pixels = self._process(images=list(images), input_data_format="channels_last", return_tensors="pt")
        given = {k: v.to(self._device) for k, v in pixels.items()}
        given["pixel_values"] = given["pixel_values"].to(self._dtype)
        return _pooled(self._model.get_image_features(**given))

    def _texts(self, texts: Sequence[str]) -> Any:
        tokens = self._tokenize(
            list(texts), padding=self._padding, truncation=True, max_length=self._length, return_tensors="pt"
        )
        known = ("input_ids", "attention_mask") if self._padding is True else ("input_ids",)
        return _pooled(self._model.get_text_features(**{k: tokens[k].to(self._device) for k in known if k in tokens}))


class OpenClipEncoder(_Peer):
    """An open_clip model with its preprocessing and tokenizer, as ``create_model_and_transforms`` gives them."""

    kind = "open_clip"

    def __init__(
        self,
        name: str,
        model: Any,
        preprocess: Any,
        tokenizer: Any,
        *,
        batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        self._preprocess = preprocess
        self._tokenize = tokenizer
        super().__init__(name, model, repr(preprocess), batch_size=batch_size, device=device)

    @classmethod
    def open(cls, location: str, *, batch_size: int | None = None, device: str | None = None) -> OpenClipEncoder:
        """A model as ``ARCHITECTURE/PRETRAINED``, where the second is a tag of open_clip's or a checkpoint file; or as
        ``hf-hub:OWNER/NAME`` or ``local-dir:PATH``, which name architecture and weights in one.

        Raises:
            MissingExtraError: open_clip is not installed. UnknownModelError: it cannot be opened.
        """
        whole = location.startswith(_WHOLE)
        architecture, _, pretrained = (location, "", None) if whole else location.partition("/")
        if not whole and not pretrained:
            raise InputError(
                f"open_clip:{location} names no weights: pass open_clip:ARCHITECTURE/TAG or "
                "open_clip:ARCHITECTURE/path/to/checkpoint, such as open_clip:ViT-B-32/laion2b_s34b_b79k"
            )
        try:
            import open_clip  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise MissingExtraError("peers", "open_clip_torch", f"open_clip:{location}") from error
        try:
            model, _, preprocess = open_clip.create_model_and_transforms(architecture, pretrained=pretrained)
            tokenizer = open_clip.get_tokenizer(architecture)
        except (OSError, RuntimeError, ValueError) as error:
            raise UnknownModelError(f"open_clip:{location} cannot be opened ({first_line(error)})") from error
        return cls(f"open_clip:{location}", model, preprocess, tokenizer, batch_size=batch_size, device=device)

    def _images(self, images: Sequence[Image]) -> Any:
        import torch
        from PIL import Image as Pillow

        pixels = torch.stack([self._preprocess(Pillow.fromarray(image)) for image in images])
        return self._model.encode_image(pixels.to(self._device, self._dtype))

    def _texts(self, texts: Sequence[str]) -> Any:
        return self._model.encode_text(self._tokenize(list(texts)).to(self._device))


_WHOLE = ("hf-hub:", "local-dir:")


def is_peer(name: str) -> bool:
    """Whether ``--model`` names a model of another library."""
    return name.startswith(("open_clip:", "transformers:"))


def open_peer(
    name: str, *, offline: bool = False, batch_size: int | None = None, device: str | None = None
) -> TransformersEncoder | OpenClipEncoder:
    """The model that ``open_clip:...`` or ``transformers:...`` names."""
    kind, _, location = name.partition(":")
    if not location:
        raise InputError(f"--model {name}: names no model; such as {kind}:openai/clip-vit-base-patch32")
    if kind == "transformers":
        return TransformersEncoder.open(location, offline=offline, batch_size=batch_size, device=device)
    local = location.startswith("local-dir:") or (
        not location.startswith(_WHOLE) and Path(location.partition("/")[2]).exists()
    )
    if offline and not local:
        raise InputError(f"--model {name}: with --offline, name a checkpoint file in the place of the tag")
    return OpenClipEncoder.open(location, batch_size=batch_size, device=device)


def _pooled(features: Any) -> Any:
    """transformers gives a tensor, or since version 5 an output object that holds it."""
    return getattr(features, "pooler_output", features)


def _as_uint8(image: Image) -> Image:
    return image if image.dtype == np.uint8 else np.clip(np.rint(image), 0, 255).astype(np.uint8)
