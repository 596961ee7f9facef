"""Measuring: one harness for zero-shot, retrieval, probing, segmentation, spectral prediction and scale curves.

Every task takes an :class:`~sattxt.evaluation.encoder.Encoder` (this library's models, or a CLIP or SigLIP through a
thin adapter) and labelled images read in place (:mod:`sattxt.data`), and gives a
:class:`~sattxt.evaluation.result.Result`, which is one JSON document. Nothing here downloads data.
"""
