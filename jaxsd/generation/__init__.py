"""Sounds and prompts to image files: what is read, how images are batched, what the files are called."""
