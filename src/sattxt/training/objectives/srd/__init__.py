"""Stage 1, spectral representation distillation: an RGB student of a frozen multispectral teacher."""
