"""Frozen multispectral teachers of stage 1, behind one small interface."""
