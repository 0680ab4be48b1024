"""Captions -> token ids, by transformers' tokenizer."""

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxsd.clip.towers import TextConfig
from jaxsd.clip.weighting import Fragment
from jaxsd.pretrained.hub import fetch
from jaxsd.runtime.files import check_not_pointer

TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
WORD_END = "</w>"


def has_tokenizer(folder: Path) -> bool:
    """Whether a CLIP tokenizer lies in the folder: as one file, or as a vocabulary and its merges."""
    layouts = (("tokenizer.json",), ("vocab.json", "merges.txt"))
    return any(all((folder / name).is_file() for name in names) for names in layouts)


def load_tokenizer(source: str | Path, config: TextConfig, revision: str | None = None):
    """Load the CLIP tokenizer of the text tower of this config from a folder or a Hugging Face repository.

    Texts are cut at the tower's positions where the files name no length or a larger one. Raises FileNotFoundError
    where there is no tokenizer, and ValueError where it cannot be read, is not CLIP's, or has token ids that the tower
    has no embeddings for.
    """
    folder = fetch(source, TOKENIZER_FILES, revision)
    if not has_tokenizer(folder):
        raise FileNotFoundError(f"{folder}: no tokenizer here (neither tokenizer.json nor vocab.json with merges.txt)")
    for path in folder.iterdir():
        if path.name in TOKENIZER_FILES:
            check_not_pointer(path)
    from transformers import CLIPTokenizer  # imports for over a second: only when text is read

    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        vocabulary = tokenizer.get_vocab()
        tokenizer("", padding="max_length", max_length=2)
    except Exception as error:  # there is no telling what damaged files lead transformers to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{folder}: the tokenizer cannot be read: {reason[:200]}") from None
    if not any(token.endswith(WORD_END) for token in vocabulary):
        raise ValueError(f"{folder}: the tokenizer is not CLIP's, whose tokens at the end of a word end in {WORD_END}")
    largest = max(vocabulary.values())
    if largest >= config.vocab_size:
        raise ValueError(
            f"{folder}: the tokenizer has token ids up to {largest}, but the text encoder has embeddings for ids up to "
            f"{config.vocab_size - 1} only: they are not of one model"
        )
    length = tokenizer.model_max_length
    if not isinstance(length, int | float) or not length >= 2:
        raise ValueError(f"{folder}: model_max_length is {str(length)[:80]!r}; it must be a number of tokens from 2")
    tokenizer.model_max_length = int(min(length, config.max_position_embeddings))
    return tokenizer


def tokenize(tokenizer, texts: Sequence[str]) -> Int[np.ndarray, "texts tokens"]:
    """Token ids, int32, padded and cut to the tokenizer's `model_max_length`, which is 77 in CLIP.

    Warns of each text that is cut, with what was cut off. Raises ValueError for a text that is not Unicode, as half a
    pair of surrogates or bytes of another encoding are.
    """
    for text in texts:
        check_unicode(text)
    length = tokenizer.model_max_length
    ids = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True)["input_ids"]
    ids = np.array(ids, np.int32)
    for full in np.flatnonzero(ids[:, -2] != tokenizer.pad_token_id):
        cut = tokenizer(texts[int(full)], verbose=False)["input_ids"][length - 1 : -1]
        _warn_of_cut(tokenizer, cut)
    return ids


def add_tokens(tokenizer, counts: Mapping[str, int], first: int) -> tuple[Any, dict[int, range]]:
    """A copy of a tokenizer that reads more tokens, and the ids that the id of each of them stands for.

    Args:
        tokenizer: The tokenizer, which stays as it is.
        counts: For how many ids each token stands.
        first: The first of these ids; the others follow.
    """
    extended, ids = copy.deepcopy(tokenizer), {}
    for token, count in counts.items():
        extended.add_tokens(token)
        ids[extended.convert_tokens_to_ids(token)] = range(first, first + count)
        first += count
    return extended, ids


def tokenize_fragments(
    tokenizer, texts: Sequence[Sequence[Fragment]], added: Mapping[int, Sequence[int]]
) -> tuple[Int[np.ndarray, "texts tokens"], Float[np.ndarray, "texts tokens"]]:
    """Token ids as `tokenize` gives them, and their weights; those of the start, the end and the padding are 1.

    Args:
        tokenizer: The tokenizer.
        texts: The fragments of each text.
        added: Ids that stand for others, and these.
    """
    length = tokenizer.model_max_length
    ids = np.full((len(texts), length), tokenizer.pad_token_id, np.int32)
    weights = np.ones(ids.shape, np.float32)
    for number, fragments in enumerate(texts):
        read = []
        for text, weight in fragments:
            check_unicode(text)
            for token in tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]:
                read += [(token, one, weight) for one in added.get(token, (token,))]
        _warn_of_cut(tokenizer, [token for token, *_ in read[length - 2 :]])
        kept = read[: length - 2]
        ids[number, : len(kept) + 2] = [tokenizer.bos_token_id, *(one for _, one, _ in kept), tokenizer.eos_token_id]
        weights[number, 1 : len(kept) + 1] = [weight for *_, weight in kept]
    return ids, weights


def check_unicode(text: str) -> None:
    """Raise ValueError for a text that is not Unicode, as half a UTF-8 character from the command line is not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the text {text[:80]!r} is not Unicode; give it in UTF-8") from None


def _warn_of_cut(tokenizer, cut: Sequence[int]):
    if cut:
        length = tokenizer.model_max_length
        warnings.warn(f"a text has more than {length} tokens; not read: {tokenizer.decode(cut)!r}", stacklevel=3)


def empty_text(config: TextConfig) -> Int[np.ndarray, "1 tokens"]:
    """The token ids of the empty text in CLIP's own vocabulary, whose last two ids are the start and the end.

    They are those of CLIP ViT-L/14's tokenizer, which pads with the end.
    """
    ids = np.full((1, config.max_position_embeddings), config.vocab_size - 1, np.int32)
    ids[0, 0] = config.vocab_size - 2
    return ids


def check_tokens(tokens: Int[np.ndarray, "texts tokens"], config: TextConfig) -> None:
    """Raise ValueError for a token id without an embedding, from which the text tower would make NaN."""
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < config.vocab_size:
        raise ValueError(f"token ids go from {tokens.min()} to {tokens.max()}; allowed: 0 to {config.vocab_size - 1}")
