"""Stage 2, spectrally grounded alignment: image embeddings against frozen text embeddings."""
