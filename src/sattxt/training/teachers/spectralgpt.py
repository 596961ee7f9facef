"""SpectralGPT (Hong et al., TPAMI 2024, arXiv 2311.07113), the teacher of the SATtxt paper: its encoder, frozen.

A tile of 12 bands is cut into 3-D patches of 3 neighbouring bands x 8 x 8 pixels, so a token is a place in one of
four spectral groups. All sizes but the number of attention heads are read from the checkpoint's tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sattxt.errors import InputError
from sattxt.training.teachers.base import Teacher, TeacherBlock, two_sigma
from sattxt.weights.tensors import check_tensors, read_checkpoint, require_tensor

#: The 12 bands it was trained on, in order (cirrus, B10, is left out).
BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
#: Statistics of fMoW-Sentinel (SatMAE, arXiv 2207.08051) in that order, reflectance x 10,000.
FMOW_MEAN = (1370.19151926, 1184.3824625, 1120.77120066, 1136.26026392, 1263.73947144, 1645.40315151, 1846.87040806,
         1762.59530783, 1972.62420416, 582.72633433, 1732.16362238, 1247.91870117)  # fmt: skip
FMOW_STD = (633.15169573, 650.2842772, 712.12507725, 965.23119807, 948.9819932, 1108.06650639, 1258.36394548,
        1233.1492281, 1364.38688993, 472.37967789, 1310.36996126, 1087.6020813)  # fmt: skip
_IGNORED = ("decoder", "mask_token", "head.", "fc_norm.", "fc.")
_EPS = 1e-6
_PUBLISHED_HEAD_WIDTH = 64


class SpectralGPTTeacher(Teacher):
    """The encoder, float32. Open a published checkpoint with :meth:`from_checkpoint`.

    Args:
        width, depth, heads, hidden: of the transformer. grid: patches a side. patch: bands and pixels a patch.
        bias: whether q, k and v have one.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        grid: int,
        patch: tuple[int, int, int] = (3, 8, 8),
        *,
        bias: bool = True,
    ) -> None:
        super().__init__("spectralgpt", BANDS, width, *two_sigma(FMOW_MEAN, FMOW_STD))
        if width % heads:
            raise InputError(f"heads={heads}: pass a number that divides the width {width}")
        self.groups, self.grid, self.size = len(BANDS) // patch[0], grid, grid * patch[1]
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(1, width, patch, patch)})
        self.pos_embed_spatial = nn.Parameter(torch.zeros(1, grid * grid, width))
        self.pos_embed_temporal = nn.Parameter(torch.zeros(1, self.groups, width))
        self.blocks = nn.Sequential(*(TeacherBlock(width, heads, hidden, bias=bias, eps=_EPS) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.eval().requires_grad_(False)

    @classmethod
    def from_checkpoint(cls, path: str | Path, *, heads: int | None = None) -> SpectralGPTTeacher:
        """Open a checkpoint in the official layout, ``{"model": state dict}``; decoder and classifier are left aside.

        Args:
            heads: attention heads, which no tensor's shape gives; by default width / 64, as in the published models.

        Raises:
            WeightsError: the file is missing or damaged, or its tensors are not those of this encoder.
            InputError: ``heads`` is needed, or does not divide the width.
        """
        path = Path(path)
        state = {k: v.float() for k, v in read_checkpoint(path).items() if not k.startswith(_IGNORED)}
        kernel = require_tensor(state, "patch_embed.proj.weight", 5, str(path))
        places = require_tensor(state, "pos_embed_spatial", 3, str(path)).shape[1]
        hidden = require_tensor(state, "blocks.0.mlp.fc1.weight", 2, str(path)).shape[0]
        width = kernel.shape[0]
        if heads is None and width % _PUBLISHED_HEAD_WIDTH:
            raise InputError(f"{path}: width {width} is no multiple of {_PUBLISHED_HEAD_WIDTH}; pass heads=")
        teacher = cls(
            width,
            sum(name.endswith(".mlp.fc1.weight") for name in state),
            heads or width // _PUBLISHED_HEAD_WIDTH,
            hidden,
            math.isqrt(places),
            (kernel.shape[2], kernel.shape[3], kernel.shape[4]),
            bias="blocks.0.attn.q.bias" in state,
        )
        check_tensors(state, {name: value.shape for name, value in teacher.state_dict().items()}, path)
        teacher.load_state_dict(state)
        return teacher

    def normalise(self, values: Tensor, names: Sequence[str]) -> Tensor:
        """(N, 12, H, W) float32 in [0, 1]: mean -+ 2 std mapped to 0 and 1, clipped, cut to 8 bits as in training."""
        return (super().normalise(values, names) * 255).clamp(0, 255).floor() / 255

    @torch.no_grad()
    def encode(self, values: Tensor, names: Sequence[str]) -> Tensor:
        """See :meth:`Teacher.encode`. Tiles of another size than the model's own are resampled to it."""
        pixels = self.normalise(values, names)
        size = (self.size, self.size)
        if pixels.shape[-2:] != size:
            shrinks = min(pixels.shape[-2:]) > self.size
            pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=shrinks, align_corners=False)
        tokens: Tensor = self.norm(self.features(pixels))
        places = tokens.view(len(pixels), self.groups, self.grid, self.grid, self.width).mean(dim=1)
        return places.permute(0, 3, 1, 2)

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """Tokens before the final norm, group by group, then row by row.

        Args:
            pixels: (N, 12, S, S), normalised, S the model's own size.

        Returns:
            (N, groups * rows * cols, width).
        """
        x: Tensor = self.patch_embed["proj"](pixels[:, None]).flatten(3)  # (N, width, groups, places)
        where = self.pos_embed_spatial.transpose(1, 2)[:, :, None] + self.pos_embed_temporal.transpose(1, 2)[..., None]
        out: Tensor = self.blocks((x + where).flatten(2).transpose(1, 2))
        return out
