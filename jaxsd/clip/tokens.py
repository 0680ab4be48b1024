"""Captions -> token ids, by transformers' tokenizer."""

import warnings

import numpy as np

from jaxsd.pretrained.hub import fetch

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


def load_tokenizer(source):
    """The CLIP tokenizer in a folder or Hugging Face repository. Raises FileNotFoundError where there is none."""
    from transformers import CLIPTokenizer  # imports for over a second: only when text is read

    folder = fetch(source, TOKENIZER_FILES)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise FileNotFoundError(f"{folder}: no tokenizer here (neither tokenizer.json nor vocab.json)")
    return CLIPTokenizer.from_pretrained(folder)


def tokenize(tokenizer, texts: list[str]) -> np.ndarray:
    """Token ids, int32 (len(texts), 77), padded and cut to the tokenizer's `model_max_length`.

    Warns of each text that is cut, with what was cut off.
    """
    length = tokenizer.model_max_length
    ids = tokenizer(texts, padding="max_length", max_length=length, truncation=True)["input_ids"]
    ids = np.array(ids, np.int32)
    for full in np.flatnonzero(ids[:, -2] != tokenizer.pad_token_id):
        cut = tokenizer(texts[full], verbose=False)["input_ids"][length - 1 : -1]
        if cut:
            warnings.warn(f"a text has more than {length} tokens; not read: {tokenizer.decode(cut)!r}", stacklevel=2)
    return ids
