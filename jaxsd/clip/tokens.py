"""Captions -> token ids, by transformers' tokenizer."""

import numpy as np

from jaxsd.hub import fetch

FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


def load_tokenizer(source):
    """The CLIP tokenizer in a folder or Hugging Face repository. Raises FileNotFoundError where there is none."""
    from transformers import CLIPTokenizer  # imports for over a second: only when text is read

    folder = fetch(source, FILES)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise FileNotFoundError(f"{folder}: no tokenizer here (neither tokenizer.json nor vocab.json)")
    return CLIPTokenizer.from_pretrained(folder)


def tokenize(tokenizer, texts: list[str]) -> np.ndarray:
    """Token ids, int32 (len(texts), 77), padded and cut to the tokenizer's `model_max_length`."""
    ids = tokenizer(texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True)["input_ids"]
    return np.array(ids, np.int32)
