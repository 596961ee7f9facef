"""Classifiers over label embeddings, and their results."""
