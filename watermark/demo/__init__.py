"""The embedded default: a small language model of our own, its prompts, and the story told with them."""
