"""Other models measured by the same code: open_clip, and CLIP or SigLIP of transformers."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sattxt.errors import InputError, MissingExtraError, UnknownModelError
from sattxt.evaluation.encoder import Image, digest, unit
from sattxt.io import first_line
from sattxt.labels.prompts import TEMPLATES
from sattxt.vision.embeddings import FloatArray

BATCH = 64
_WHOLE = ("hf-hub:", "local-dir:")  # locations of open_clip that name architecture and weights in one


class Peer(ABC):
    """What both kinds share: batching, unit length, the facts for a result. See :class:`~.encoder.Encoder`.

    facts: what decides the embeddings beside the weights, JSON-ready. device: by default the best there is.
    """

    kind = ""
    templates = TEMPLATES["reference"]

    def __init__(self, name: str, model: Any, facts: Any, batch_size: int | None, device: str | None) -> None:
        import torch

        self.name = name
        self._batch_size = batch_size or BATCH
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._model = model.to(self._device).eval()
        scale = getattr(model, "logit_scale", None)
        self.logit_scale = float(scale.detach().exp()) if scale is not None else 100.0
        self._dtype = next(iter(model.parameters())).dtype
        self.fingerprint = digest(_digest_tensors(model.state_dict()), facts, str(self._dtype), self._device.type)
        self._width: int | None = None

    def describe(self) -> dict[str, Any]:
        """What a result says of its model, JSON-ready."""
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
        """(N, D) float32 unit vectors of (H, W, 3) images in 0..255; float pixels are rounded."""
        rounded = [x if x.dtype == np.uint8 else np.clip(np.rint(x), 0, 255).astype(np.uint8) for x in images]
        return self._in_batches(rounded, self._images)

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """(N, D) float32 unit vectors of texts, cut to the model's length."""
        return self._in_batches(list(texts), self._texts)

    def _in_batches(self, items: Sequence[Any], run: Callable[[Sequence[Any]], Any]) -> FloatArray:
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


class TransformersEncoder(Peer):
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
        super().__init__(name, model, image_processor.to_dict(), batch_size, device)
        self._process = image_processor
        self._tokenize = tokenizer
        self._length = int(model.config.text_config.max_position_embeddings)
        # SigLIP was trained on texts padded to full length and sees the padding; CLIP masks it.
        self._padding: str | bool = "max_length" if model.config.model_type.startswith("siglip") else True

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


class OpenClipEncoder(Peer):
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
        super().__init__(name, model, repr(preprocess), batch_size, device)
        self._preprocess = preprocess
        self._tokenize = tokenizer

    def _images(self, images: Sequence[Image]) -> Any:
        import torch
        from PIL import Image as Pillow

        pixels = torch.stack([self._preprocess(Pillow.fromarray(image)) for image in images])
        return self._model.encode_image(pixels.to(self._device, self._dtype))

    def _texts(self, texts: Sequence[str]) -> Any:
        return self._model.encode_text(self._tokenize(list(texts)).to(self._device))


def is_peer(name: str) -> bool:
    """Whether ``--model`` names a model of another library."""
    return name.startswith(("open_clip:", "transformers:"))


def open_peer(
    name: str, *, offline: bool = False, batch_size: int | None = None, device: str | None = None
) -> TransformersEncoder | OpenClipEncoder:
    """The model that a name stands for.

    Args:
        name: ``transformers:`` and a folder or hub id; ``open_clip:ARCHITECTURE/PRETRAINED``, where the second is a tag
            of open_clip's or a checkpoint file; ``open_clip:hf-hub:OWNER/NAME`` or ``open_clip:local-dir:PATH``.

    Raises:
        UnknownModelError: it cannot be opened. MissingExtraError: open_clip is not installed.
        InputError: the name is incomplete, needs the network, or is of another kind of model.
    """
    kind, _, location = name.partition(":")
    if not location:
        raise InputError(f"--model {name}: names no model; such as {kind}:openai/clip-vit-base-patch32")
    options = {"batch_size": batch_size, "device": device}
    try:
        if kind == "transformers":
            return TransformersEncoder(name, *_transformers_parts(location, offline=offline), **options)
        return OpenClipEncoder(name, *_open_clip_parts(location, offline=offline), **options)
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise UnknownModelError(f"{name} cannot be opened ({first_line(error)})") from error


def _transformers_parts(location: str, *, offline: bool) -> tuple[Any, Any, Any]:
    """Model, image processor and tokenizer."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

    config = AutoConfig.from_pretrained(location, local_files_only=offline)
    if config.model_type not in ("clip", "siglip", "siglip2"):
        raise InputError(f"transformers:{location} is a {config.model_type}; clip, siglip and siglip2 are read")
    parts: tuple[Any, ...] = (AutoModel, AutoImageProcessor, AutoTokenizer)
    model, processor, tokenizer = (part.from_pretrained(location, local_files_only=offline) for part in parts)
    return model, processor, tokenizer


def _open_clip_parts(location: str, *, offline: bool) -> tuple[Any, Any, Any]:
    """Model, preprocessing and tokenizer."""
    architecture, _, pretrained = location.partition("/")
    if location.startswith(_WHOLE):
        architecture, pretrained = location, ""
    elif not pretrained:
        raise InputError(
            f"open_clip:{location} names no weights: pass open_clip:ARCHITECTURE/TAG or "
            "open_clip:ARCHITECTURE/path/to/checkpoint, such as open_clip:ViT-B-32/laion2b_s34b_b79k"
        )
    if offline and not location.startswith("local-dir:") and not (pretrained and Path(pretrained).exists()):
        raise InputError(
            f"--model open_clip:{location}: with --offline, name a checkpoint file in the place of the tag"
        )
    try:
        import open_clip  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise MissingExtraError("peers", "open_clip_torch", f"open_clip:{location}") from error
    model, _, preprocess = open_clip.create_model_and_transforms(architecture, pretrained=pretrained or None)
    return model, preprocess, open_clip.get_tokenizer(architecture)


def _pooled(features: Any) -> Any:
    """transformers gives a tensor, or since version 5 an output object that holds it."""
    return getattr(features, "pooler_output", features)


def _digest_tensors(tensors: Mapping[str, Any]) -> str:
    """sha256 over names, shapes and values of tensors."""
    import torch

    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        if tensor.numel():
            total.update(tensor.flatten().view(torch.uint8).numpy())
    return total.hexdigest()
