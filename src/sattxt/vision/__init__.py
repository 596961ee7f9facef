"""From pixel values to image embeddings: backbones, the head, and batches of tiles."""
