"""From prompts to text embeddings: the frozen encoders, their cache and label banks, the head."""
