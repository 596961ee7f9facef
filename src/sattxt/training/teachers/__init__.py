"""Frozen multispectral teachers of stage 1, behind one small interface."""

from __future__ import annotations

from sattxt.training.teachers.base import CallableTeacher, FrozenTeacher, Teacher, TeacherTokens, band_stack
from sattxt.training.teachers.galileo import GalileoTeacher
from sattxt.training.teachers.spectralgpt import SpectralGPTTeacher

__all__ = [
    "CallableTeacher",
    "FrozenTeacher",
    "GalileoTeacher",
    "SpectralGPTTeacher",
    "Teacher",
    "TeacherTokens",
    "band_stack",
]
