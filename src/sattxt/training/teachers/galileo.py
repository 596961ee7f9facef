"""Galileo (Tseng et al., ICML 2025, arXiv 2502.09356): the Sentinel-2 side of its encoder as a teacher.

Bands are tokenised in spectral groups: every 8 x 8 (or finer) patch of every group is one token. What is not
there (Sentinel-1, weather, elevation, a group whose bands the data lack) is masked: its tokens are left out, as in
the model's own pretraining, so that it takes the RGB group alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sattxt.errors import InputError, WeightsError
from sattxt.images.bands import canonical
from sattxt.io import read_json
from sattxt.training.teachers.base import Teacher, TeacherBlock, two_sigma
from sattxt.weights.tensors import check_tensors, read_checkpoint

#: The Sentinel-2 groups and NDVI, in the order of their tokens; Sentinel-1 comes before them in the weights.
GROUPS: dict[str, tuple[str, ...]] = {
    "S2_RGB": ("B02", "B03", "B04"),
    "S2_Red_Edge": ("B05", "B06", "B07"),
    "S2_NIR_10m": ("B08",),
    "S2_NIR_20m": ("B8A",),
    "S2_SWIR": ("B11", "B12"),
    "NDVI": ("B04", "B08"),
}
#: What a group's network takes: NDVI is computed from its bands.
_INPUTS = {**GROUPS, "NDVI": ("NDVI",)}
_CHANNELS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12", "NDVI")
_FIRST_GROUP = 1  # row 0 of s_t_channel_embed is Sentinel-1's
# Pretraining statistics of reflectance x 10,000 (NDVI as it is), published with the weights.
_MEAN = (1395.3408203125, 1338.4027099609375, 1343.098876953125, 1543.86083984375, 2186.2021484375, 2525.09326171875,
         2410.337646484375, 2750.285400390625, 2234.9111328125, 1474.5311279296875, 0.2892116606235504)  # fmt: skip
_STD = (917.7041625976562, 913.298828125, 1092.6787109375, 1047.2205810546875, 1048.0101318359375, 1143.6903076171875,
        1098.9791259765625, 1204.4727783203125, 1145.9774169921875, 980.2429809570312, 0.27209389209747314)  # fmt: skip
_OTHER_INPUTS = ("sp_channel_embed", "t_channel_embed", "st_channel_embed", "space_embed.", "time_embed.",
                 "static_embed.", "space_time_embed.S1.")  # fmt: skip
_BASE_METRES = 10.0


class GalileoTeacher(Teacher):
    """The encoder, float32. Open the published weights with :meth:`from_folder`.

    Args:
        width, depth, heads, hidden: of the transformer. base_patch: side of the stored patch kernels.
        patch_size: pixels a patch, 1 to ``base_patch``. month: 0 (January) to 11, of the tiles' acquisition.
        metres: ground size of a pixel.

    Raises:
        InputError: patch_size is out of range.
    """

    def __init__(
        self,
        width: int = 128,
        depth: int = 4,
        heads: int = 8,
        hidden: int = 512,
        base_patch: int = 8,
        steps: int = 24,
        *,
        patch_size: int = 8,
        month: int = 5,
        metres: float = _BASE_METRES,
    ) -> None:
        super().__init__("galileo", _CHANNELS, width, *two_sigma(_MEAN, _STD))
        if not 1 <= patch_size <= base_patch:
            raise InputError(f"patch_size={patch_size}: pass 1 to {base_patch}")
        self.patch_size, self.month, self.metres = patch_size, month, metres
        quarter = width // 4  # of every token's encoding: group, place in the series, month, place in space
        self.pos_embed = nn.Parameter(torch.zeros(steps, quarter))
        self.month_embed = nn.Embedding(12, quarter)
        self.s_t_channel_embed = nn.Parameter(torch.zeros(len(GROUPS) + _FIRST_GROUP, quarter))
        self.space_time_embed = nn.ModuleDict(
            {
                group: nn.ModuleDict({"proj": nn.Conv2d(len(channels), width, base_patch, base_patch)})
                for group, channels in _INPUTS.items()
            }
        )
        self.blocks = nn.Sequential(*(TeacherBlock(width, heads, hidden, bias=True, eps=1e-5) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.eval().requires_grad_(False)

    @classmethod
    def from_folder(
        cls, folder: str | Path, *, patch_size: int = 8, month: int = 5, metres: float = _BASE_METRES
    ) -> GalileoTeacher:
        """Open a published folder: ``config.json`` and ``encoder.pt`` (any size: Nano, Tiny, Base).

        Raises:
            WeightsError: a file is missing or damaged, or the tensors are not those of this encoder.
        """
        folder = Path(folder)
        try:
            sizes = read_json(folder / "config.json")["model"]["encoder"]
            width, depth, heads = sizes["embedding_size"], sizes["depth"], sizes["num_heads"]
            hidden, patch = int(width * sizes["mlp_ratio"]), sizes["max_patch_size"]
            steps = sizes["max_sequence_length"]
        except (KeyError, TypeError) as error:
            raise WeightsError(f"{folder / 'config.json'}: cannot be read as a Galileo config ({error!r})") from error
        weights = folder / "encoder.pt"
        state = {k: v for k, v in read_checkpoint(weights).items() if not k.startswith(_OTHER_INPUTS)}
        teacher = cls(width, depth, heads, hidden, patch, steps, patch_size=patch_size, month=month, metres=metres)
        check_tensors(state, {name: value.shape for name, value in teacher.state_dict().items()}, weights)
        teacher.load_state_dict(state)
        return teacher

    def check(self, available: Sequence[str], where: str) -> None:
        """Raise InputError unless at least one spectral group is complete among ``available``."""
        if not _complete(available):
            groups = "; ".join(f"{name}: {', '.join(bands)}" for name, bands in GROUPS.items() if name != "NDVI")
            known = ", ".join(sorted({canonical(band) for band in available})) or "no bands"
            raise InputError(f"{where}: has {known}, none of {self.name}'s groups is complete ({groups})")

    def stack(self, values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """As :meth:`Teacher.stack`, with NDVI. What is not there is 0; its group is masked."""
        found = super().stack(values, names)
        blank = torch.zeros_like(next(iter(found.values())))
        stack = {channel: found.get(channel, blank) for channel in self.bands}
        total = stack["B08"] + stack["B04"]
        stack["NDVI"] = torch.where(total > 0, (stack["B08"] - stack["B04"]) / total.clamp(min=1e-9), 0.0)
        return stack

    @torch.no_grad()
    def tokens(self, values: Tensor, names: Sequence[str]) -> Tensor:
        """(N, rows, cols, groups, width) after the final norm, of the groups that are there in the order of ``GROUPS``.

        Raises:
            InputError: the tiles' sides are no multiples of ``patch_size``.
        """
        pixels = self.normalise(values, names)
        height, width = pixels.shape[-2:]
        if height % self.patch_size or width % self.patch_size or 0 in (height, width):
            raise InputError(
                f"{self.name}: tiles of {height} x {width} pixels do not divide into patches of {self.patch_size}; "
                "crop or resample them to a multiple"
            )
        rows, cols = height // self.patch_size, width // self.patch_size
        where = _place_encoding(rows, cols, self.metres * self.patch_size / _BASE_METRES, self.width // 4).to(pixels)
        when = torch.cat([self.pos_embed[0], self.month_embed.weight[self.month]]).expand(rows, cols, -1)
        tokens = []
        for group in _complete(names):
            conv = self.space_time_embed[group]["proj"]  # type: ignore[index]
            inputs = pixels[:, [_CHANNELS.index(channel) for channel in _INPUTS[group]]]
            kernel = resize_kernel(conv.weight, self.patch_size)
            patches = F.conv2d(inputs, kernel, conv.bias, stride=self.patch_size).permute(0, 2, 3, 1)
            kind = self.s_t_channel_embed[_FIRST_GROUP + list(GROUPS).index(group)].expand(rows, cols, -1)
            tokens.append(patches + torch.cat([kind, when, where], dim=-1))
        x = torch.stack(tokens, dim=3)
        out: Tensor = self.norm(self.blocks(x.flatten(1, 3))).view(x.shape)
        return out

    def encode(self, values: Tensor, names: Sequence[str]) -> Tensor:
        """See :meth:`Teacher.encode`: :meth:`tokens`, averaged over groups."""
        return self.tokens(values, names).mean(dim=3).permute(0, 3, 1, 2)


def resize_kernel(kernel: Tensor, size: int) -> Tensor:
    """Patch kernels (out, in, P, P) for patches of ``size`` pixels, by pseudo-inverse (FlexiViT, arXiv 2212.08013).

    The new kernel gives an enlarged small patch as nearly as possible the response that the old one gives it.
    """
    base = kernel.shape[-1]
    if size == base:
        return kernel
    return (kernel.flatten(2) @ _inverse_resize(base, size).to(kernel)).view(*kernel.shape[:2], size, size)


@lru_cache(maxsize=16)
def _inverse_resize(base: int, size: int) -> Tensor:
    """(base^2, size^2): pseudo-inverse of the bicubic, antialiased resize from ``base`` to ``size`` pixels a side."""
    pixels = torch.eye(base * base).view(-1, 1, base, base)
    small = F.interpolate(pixels, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
    return torch.linalg.pinv(small.flatten(1)).T


def _complete(names: Sequence[str]) -> list[str]:
    """The groups whose bands are all among ``names``."""
    known = {canonical(name) for name in names}
    return [group for group, bands in GROUPS.items() if known.issuperset(bands)]


def _place_encoding(rows: int, cols: int, scale: float, width: int) -> Tensor:
    """(rows, cols, width): sine and cosine of the column, then of the row, in units of 10 m (Scale-MAE's encoding).

    The frequencies are the model's own: exponents run to 1/4 only.
    """
    quarter = width // 4
    omega = 10000.0 ** -(torch.arange(quarter) / (4 * quarter))
    angles = (torch.arange(max(rows, cols)) * scale)[:, None] * omega
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    return torch.cat([waves[None, :cols].expand(rows, -1, -1), waves[:rows, None].expand(-1, cols, -1)], dim=-1)
