"""The models that are measured: the published sizes with random weights in memory, and the small model from files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

    from benchmarks.settings import Settings
    from sattxt import SatTxt
    from sattxt.config import ModelConfig
    from sattxt.text.encoder import TextEncoder

Module = TypeVar("Module", bound="torch.nn.Module")

STAND_IN = "random stand-in for sattxt-mini"
_TEXT = (
    "a an the of in on and near seen from above satellite aerial image photo view imagery overhead describe land cover "
    "forest river lake sea ocean city town village harbour airport runway farm field orchard vineyard pasture meadow "
    "desert dune beach island glacier snow mountain ridge valley quarry mine factory warehouse road highway bridge "
    "railway station stadium park golf course school church parking lot solar panel wind turbine dam canal wetland "
    "burnt flooded dense sparse green dry bare rocky sandy snowy urban rural coastal industrial residential old new "
    "large small wide narrow northern southern eastern western"
)
_WORDS = _TEXT.split()
_ADJECTIVES = _WORDS[_WORDS.index("burnt") :]
_NOUNS = _WORDS[_WORDS.index("forest") : _WORDS.index("burnt")]


def labels(count: int, *, series: int = 0) -> list[str]:
    """``count`` different labels; every ``series`` gives others."""
    found = []
    for index in range(count):
        adjective, noun = _ADJECTIVES[index % len(_ADJECTIVES)], _NOUNS[index // len(_ADJECTIVES) % len(_NOUNS)]
        lap = index // (len(_ADJECTIVES) * len(_NOUNS))
        tail = f" near place {series} {lap}" if series or lap else ""
        found.append(f"{adjective} {noun}{tail}")
    return found


def vitl16_config(size: str) -> ModelConfig:
    """The published model's image side: DINOv3 ViT-L/16 and a two-block head. ``tiny`` is small enough for a test.

    Its text side is a placeholder: the language model has no part in image throughput.
    """
    from sattxt.config import BackboneConfig, HeadConfig, ImageConfig, ModelConfig, TextEncoderConfig, VisionConfig

    dim, depth, heads, ffn, pixels = (64, 2, 4, 128, 64) if size == "tiny" else (1024, 24, 16, 4096, 224)
    options = {
        "patch_size": 16,
        "num_channels": 3,
        "image_size": pixels,
        "hidden_size": dim,
        "intermediate_size": ffn,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_register_tokens": 4,
        "hidden_act": "gelu",
        "use_gated_mlp": False,
        "layer_norm_eps": 1e-5,
        "rope_theta": 100.0,
        "query_bias": True,
        "key_bias": False,
        "value_bias": True,
        "proj_bias": True,
        "mlp_bias": True,
    }
    head_ffn = -(-(4 * dim * 2 // 3) // 64) * 64
    return ModelConfig(
        name="vitl16-random",
        embed_dim=2 * dim,
        image=ImageConfig(size=pixels, rescale=1.0, preset="official"),
        vision=VisionConfig(BackboneConfig("dinov3_vit", options), HeadConfig(dim, dim, 2, heads, head_ffn)),
        text=TextEncoderConfig(kind="sentence", hidden_size=8, weights_sha256="0" * 64),
        logit_scale=50.0,
    )


def in_memory(config: ModelConfig, dtype: torch.dtype, device: str) -> SatTxt:
    """A model with random weights that encodes images; it has no text encoder."""
    import torch

    from sattxt import SatTxt
    from sattxt.errors import TextEncoderUnavailableError
    from sattxt.text.tower import TextHead, TextTower
    from sattxt.vision.tower import VisionTower

    def no_encoder() -> Any:
        raise TextEncoderUnavailableError("this benchmark's model has no text side")

    torch.manual_seed(0)
    vision = without_init(lambda: VisionTower(config.vision))
    fill(vision)
    text = TextTower(config.text, TextHead(config.text.hidden_size, config.embed_dim), encoder_factory=no_encoder)
    return SatTxt(config, vision, text, device=torch.device(device), dtype=dtype)


def without_init(build: Callable[[], Module]) -> Module:
    """Build a module without drawing its initial weights, which takes a ViT-L half a minute; :func:`fill` it after."""
    try:
        from transformers.initialization import no_init_weights
    except ImportError:
        return build()
    with no_init_weights():
        return build()


def fill(module: torch.nn.Module) -> None:
    """Weights with which a network of any depth gives finite values that depend on its input."""
    import torch

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                parameter.uniform_(-0.035, 0.035)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.fill_(0.1 if "gamma" in name or "lambda" in name else 1.0)


def tower(model: SatTxt) -> Any:
    """A model's image tower, to time by itself."""
    return model.vision.tower


def image_pass(model: SatTxt, pixel_values: torch.Tensor) -> torch.Tensor:
    """(N, D) float32 embeddings of pixel values that are ready, in as many passes as ``encode_image`` makes of them."""
    return model.vision.encode_pixels(pixel_values)


def text_encoder(model: SatTxt) -> TextEncoder:
    """A model's frozen text encoder, opened if need be, to time by itself."""
    return model.text.open_encoder()


@contextmanager
def small_model(settings: Settings) -> Iterator[tuple[str, str]]:
    """Where the small model is, and what to call it: ``settings.model``, sattxt-mini, or a random stand-in."""
    if settings.model is not None:
        yield settings.model, Path(settings.model).name
    elif settings.size != "tiny" and _is_bundled():
        yield "sattxt-mini", "sattxt-mini"
    else:
        with TemporaryDirectory(prefix="sattxt-bench-") as folder:
            yield str(write_stand_in(Path(folder) / "model", tiny=settings.size == "tiny")), STAND_IN


def _is_bundled() -> bool:
    from sattxt.errors import SatTxtError
    from sattxt.weights.resolver import resolve

    try:
        resolve("sattxt-mini", local_files_only=True)
    except SatTxtError:
        return False
    return True


def write_stand_in(path: Path, *, tiny: bool) -> Path:
    """A model directory with random weights: sattxt-mini's sizes (8-bit text encoder included), or a tiny one's."""
    import torch

    from sattxt.config import BackboneConfig, HeadConfig, ImageConfig, ModelConfig, TextEncoderConfig, VisionConfig
    from sattxt.text.sentence import export_sentence_encoder
    from sattxt.text.tower import TextHead
    from sattxt.vision.tower import VisionTower
    from sattxt.weights.directory import write_model

    torch.manual_seed(0)
    multiplier, dim, heads, ffn, pixels = (0.25, 32, 2, 64, 64) if tiny else (1.0, 320, 5, 896, 96)
    width = int(1024 * multiplier)
    half = (0.5, 0.5, 0.5)
    vision_config = VisionConfig(
        BackboneConfig("mobilenet_v1", {"depth_multiplier": multiplier}, 16), HeadConfig(width, dim, 2, heads, ffn)
    )
    vision = VisionTower(vision_config).state_dict()
    with TemporaryDirectory(prefix="sattxt-bench-") as folder:
        source, encoder = Path(folder) / "source", Path(folder) / "encoder"
        hidden = _write_bert(source, tiny=tiny)
        digest = export_sentence_encoder(source, encoder)
        config = ModelConfig(
            name="stand-in",
            embed_dim=2 * dim,
            image=ImageConfig(size=pixels, mean=half, std=half),
            vision=vision_config,
            text=TextEncoderConfig(kind="sentence", hidden_size=hidden, weights_sha256=digest, max_length=128),
            logit_scale=50.0,
        )
        rounded = {k: v.half() if v.is_floating_point() and v.ndim > 1 else v for k, v in vision.items()}
        return write_model(path, config, rounded, TextHead(hidden, 2 * dim).state_dict(), encoder)


def _write_bert(folder: Path, *, tiny: bool) -> int:
    """A random sentence encoder as sentence-transformers writes it; returns its width."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    from sattxt.text.bert import Bert, BertSizes

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = [*special, *sorted({*_WORDS, *letters}), *(f"##{letter}" for letter in letters)]
    vocabulary = 512 if tiny else 30522
    pieces += [f"[unused{i}]" for i in range(vocabulary - len(pieces))]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    hidden, layers, heads, ffn = (32, 2, 2, 64) if tiny else (384, 6, 12, 1536)
    described = {
        "model_type": "bert",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": ffn,
        "max_position_embeddings": 512,
    }
    (folder / "config.json").write_text(json.dumps(described), encoding="utf-8")
    bert = Bert(BertSizes.from_dict(described, "stand-in"))
    for name, parameter in bert.named_parameters():
        if "LayerNorm.weight" in name:
            torch.nn.init.ones_(parameter)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
        else:
            torch.nn.init.normal_(parameter, std=0.02)
    save_file({k: v.detach().contiguous() for k, v in bert.state_dict().items()}, str(folder / "model.safetensors"))
    return hidden
