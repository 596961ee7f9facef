"""Label sets, prompt templates, and the checks of labels."""
