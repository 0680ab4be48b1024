"""The toy world's tokenizer: CLIP's own kind (byte-level BPE), its merges learned from the captions."""

import json
from typing import Any

from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

SUFFIX = "</w>"
MOST_TOKENS = 1_024  # more than the captions' words need, so that each becomes one token


def make_tokenizer(captions: list[str]) -> CLIPTokenizer:
    """A CLIPTokenizer in which every word of `captions` is one token and any other text falls back to bytes."""
    blank = CLIPTokenizer().backend_tokenizer
    blank.model = BPE(end_of_word_suffix=SUFFIX)
    trainer = BpeTrainer(vocab_size=MOST_TOKENS, end_of_word_suffix=SUFFIX, show_progress=False)
    blank.train_from_iterator(sorted(set(captions)), trainer)
    merges: Any = [tuple(pair) for pair in json.loads(blank.to_str())["model"]["merges"]]

    letters = sorted(ByteLevel.alphabet())
    tokens = letters + [letter + SUFFIX for letter in letters] + ["".join(pair) for pair in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]  # last, as in CLIP
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
