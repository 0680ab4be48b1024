"""Configs of training; `--config gemini.py` means the file of that name here."""
