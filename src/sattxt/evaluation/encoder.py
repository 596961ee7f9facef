"""What evaluation asks of a model; this library's models and those of open_clip and transformers in that form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sattxt.errors import InputError, UnknownModelError, import_extra
from sattxt.io import first_line
from sattxt.labels.prompts import TEMPLATES
from sattxt.vision.embeddings import FloatArray, unit_rows

if TYPE_CHECKING:
    from sattxt.model import SatTxt
    from sattxt.segment import Segmentation

Image = NDArray[Any]
BATCH = 64
#: What the name of a model of another library starts with.
PEERS = ("open_clip:", "transformers:")


class Encoder(Protocol):
    """A model with an image and a text side in one space.

    name: what results call it. fingerprint: sha256 over all that decides its embeddings (weights, preprocessing,
    precision). logit_scale: what cosines are multiplied by before a softmax. templates: its own prompt templates.
    """

    name: str
    fingerprint: str
    logit_scale: float
    templates: tuple[str, ...]

    def encode_images(self, images: Sequence[Image]) -> FloatArray:
        """(N, D) float32 unit vectors of (H, W, 3) images in 0..255, uint8 or float32, of any sizes."""

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """(N, D) float32 unit vectors of texts, taken as they are."""

    def describe(self) -> dict[str, Any]:
        """What a result says of its model, JSON-ready."""


class SatTxtEncoder:
    """A :class:`sattxt.SatTxt`, with one instruction for all texts."""

    def __init__(self, model: SatTxt, *, instruction: str | None = None, batch_size: int | None = None) -> None:
        self.model = model
        self.name = model.config.name
        self.instruction = instruction
        self.logit_scale = model.config.logit_scale
        self.templates = tuple(model.config.prompt_templates)
        self.fit = model.fit
        self._batch_size = batch_size
        # The config as it is in use: another pixel scaling, precision or kind of device gives other embeddings.
        self.fingerprint = digest(
            model.fingerprint, asdict(model.config), str(model.dtype), model.device.type, instruction
        )

    def encode_images(self, images: Sequence[Image]) -> FloatArray:
        """See :class:`Encoder`."""
        return np.asarray(
            self.model.encode_image(
                list(images), batch_size=self._batch_size, workers=0, channels="last", value_range="0-255"
            )
        )

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """See :class:`Encoder`."""
        return self.model.encode_text(list(texts), instruction=self.instruction)

    def segment(self, image: Image, prompts: Mapping[str, Sequence[str]], **options: Any) -> Segmentation:
        """Label map of an (H, W, 3) image; a label's complete prompts are averaged."""
        return self.model.segment(
            image,
            {label: list(texts) for label, texts in prompts.items()},
            templates="{}",
            instruction=self.instruction,
            channels="last",
            **options,
        )

    def describe(self) -> dict[str, Any]:
        """See :class:`Encoder`."""
        config = self.model.config
        return {
            "name": self.name,
            "kind": "sattxt",
            "fingerprint": self.fingerprint,
            "embed_dim": self.model.embed_dim,
            "logit_scale": self.logit_scale,
            "image_size": config.image.size,
            "preprocessing": config.image.preset,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self.model.device),
            "instruction": self.instruction if self.instruction is not None else config.text.instruction,
        }


def digest(*parts: Any) -> str:
    """One sha256 over JSON-ready parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class PeerEncoder:
    """A model of another library as an :class:`Encoder`.

    name: ``KIND:LOCATION``. images: (n, D) features of a list of uint8 images. texts: of a list of texts; both compute
    on the device that ``model`` is on. preprocessing: JSON-ready, part of the fingerprint.
    """

    templates = TEMPLATES["reference"]

    def __init__(
        self,
        name: str,
        model: Any,
        images: Callable[[list[Image]], Any],
        texts: Callable[[list[str]], Any],
        *,
        preprocessing: Any,
        batch_size: int | None = None,
    ) -> None:
        self.name = name
        self._images, self._texts = images, texts
        self._batch_size = batch_size or BATCH
        weights = model.state_dict()
        sums = {key: _sha256(tensor) for key, tensor in weights.items()}
        self.logit_scale = float(weights["logit_scale"].exp()) if "logit_scale" in weights else 100.0
        self._first = next(iter(model.parameters()))
        self.fingerprint = digest(sums, preprocessing, str(self._first.dtype), self._first.device.type)

    def describe(self) -> dict[str, Any]:
        """What a result says of its model, JSON-ready."""
        return {
            "name": self.name,
            "kind": self.name.partition(":")[0],
            "fingerprint": self.fingerprint,
            "embed_dim": self.encode_texts(self.templates).shape[1],
            "logit_scale": self.logit_scale,
            "dtype": str(self._first.dtype).removeprefix("torch."),
            "device": str(self._first.device),
        }

    def encode_images(self, images: Sequence[Image]) -> FloatArray:
        """(N, D) float32 unit vectors of (H, W, 3) images in 0..255; float pixels are rounded."""
        return self._encode([np.clip(np.rint(image), 0, 255).astype(np.uint8) for image in images], self._images)

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """(N, D) float32 unit vectors of texts, cut to the model's length."""
        return self._encode(list(texts), self._texts)

    def _encode(self, items: list[Any], run: Callable[[list[Any]], Any]) -> FloatArray:
        import torch

        with torch.inference_mode():
            batches = [items[start : start + self._batch_size] for start in range(0, len(items), self._batch_size)]
            return np.concatenate([unit_rows(run(batch).float().cpu().numpy()) for batch in batches])


def open_peer(
    name: str, *, offline: bool = False, batch_size: int | None = None, device: str | None = None
) -> PeerEncoder:
    """The model that a name stands for.

    Args:
        name: ``transformers:`` and a folder or hub id; ``open_clip:ARCHITECTURE/PRETRAINED``, where the second is a tag
            of open_clip's or a checkpoint file.
        device: by default the best there is.

    Raises:
        UnknownModelError: it cannot be opened. MissingExtraError: open_clip is not installed.
        InputError: the name is incomplete, needs the network, or is of another kind of model.
    """
    from sattxt.vision.device import resolve_device  # here: `sattxt eval --help` needs no torch

    kind, _, location = name.partition(":")
    if not location:
        raise InputError(f"--model {name}: names no model; such as {kind}:openai/clip-vit-base-patch32")
    opened = _open_transformers if kind == "transformers" else _open_open_clip
    try:
        return opened(location, offline, batch_size, resolve_device(device))
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise UnknownModelError(f"{name} cannot be opened ({first_line(error)})") from error


def _open_transformers(location: str, offline: bool, batch_size: int | None, device: Any) -> PeerEncoder:
    """A CLIP, SigLIP or SigLIP 2 model of transformers with its image processor and tokenizer."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

    config = AutoConfig.from_pretrained(location, local_files_only=offline)
    if config.model_type not in ("clip", "siglip", "siglip2"):
        raise InputError(f"transformers:{location} is a {config.model_type}; clip, siglip and siglip2 are read")
    parts: tuple[Any, ...] = (AutoModel, AutoImageProcessor, AutoTokenizer)
    model, processor, tokenizer = (part.from_pretrained(location, local_files_only=offline) for part in parts)
    model = model.to(device).eval()
    masked = config.model_type == "clip"  # SigLIP was trained on texts padded to full length and sees the padding
    tokenising = {
        "padding": True if masked else "max_length",
        "truncation": True,
        "max_length": config.text_config.max_position_embeddings,
        "return_attention_mask": masked,
        "return_token_type_ids": False,
        "return_tensors": "pt",
    }

    def images(batch: list[Image]) -> Any:
        pixels = processor(images=batch, input_data_format="channels_last", return_tensors="pt")
        return model.get_image_features(**pixels.to(device, model.dtype)).pooler_output

    def texts(batch: list[str]) -> Any:
        return model.get_text_features(**tokenizer(batch, **tokenising).to(device)).pooler_output

    return PeerEncoder(
        f"transformers:{location}", model, images, texts, preprocessing=processor.to_dict(), batch_size=batch_size
    )


def _open_open_clip(location: str, offline: bool, batch_size: int | None, device: Any) -> PeerEncoder:
    """An open_clip model with its preprocessing and tokenizer, as ``create_model_and_transforms`` gives them."""
    import torch
    from PIL import Image as Pillow

    architecture, _, pretrained = location.partition("/")
    if not pretrained:
        raise InputError(
            f"open_clip:{location} names no weights: pass open_clip:ARCHITECTURE/TAG or "
            "open_clip:ARCHITECTURE/path/to/checkpoint, such as open_clip:ViT-B-32/laion2b_s34b_b79k"
        )
    if offline and not Path(pretrained).exists():
        raise InputError(f"--model open_clip:{location}: --offline needs a checkpoint file in the place of the tag")
    open_clip = import_extra("open_clip", "peers", "open_clip_torch", f"open_clip:{location}")
    model, _, preprocess = open_clip.create_model_and_transforms(architecture, pretrained=pretrained)
    tokenize = open_clip.get_tokenizer(architecture)
    model = model.to(device).eval()

    def images(batch: list[Image]) -> Any:
        pixels = torch.stack([preprocess(Pillow.fromarray(image)) for image in batch])
        return model.encode_image(pixels.to(next(model.parameters())))

    def texts(batch: list[str]) -> Any:
        return model.encode_text(tokenize(batch).to(device))

    return PeerEncoder(
        f"open_clip:{location}", model, images, texts, preprocessing=repr(preprocess), batch_size=batch_size
    )


def _sha256(tensor: Any) -> str:
    import torch

    return hashlib.sha256(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy()).hexdigest()
