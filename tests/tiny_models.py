"""Tiny random models of real transformers classes, saved as a user would save them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "one", "two", "three"]
WORDS = ["one", "two", "three", "a", "b", "c"]


def tiny_config(kind: str, **changes: Any) -> Any:
    """The config of a tiny model: `bert`, `llama` or `gpt2`."""
    size = len(VOCABULARY)
    if kind == "bert":
        return transformers.BertConfig(
            vocab_size=size,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=64,
            **changes,
        )
    if kind == "llama":
        return transformers.LlamaConfig(
            vocab_size=size,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=48,
            max_position_embeddings=64,
            **changes,
        )
    return transformers.GPT2Config(vocab_size=size, n_embd=32, n_layer=2, n_head=4, n_positions=64, **changes)


def save_tiny(
    folder: Path,
    kind: str = "bert",
    *,
    seed: int = 0,
    labels: Sequence[str] | None = ("no", "yes"),
    dtype: torch.dtype = torch.float32,
    shard_size: str = "1GB",
    **changes: Any,
) -> Path:
    """Save a tiny random model with a tokenizer into `folder`: a classifier, or a causal LM without labels.

    All seeds share the base of seed 0 and differ by a small change, as fine-tunes do.
    """
    if labels:
        changes["id2label"] = dict(enumerate(labels))
        changes["label2id"] = {label: index for index, label in enumerate(labels)}
    if kind == "gpt2":
        changes.setdefault("pad_token_id", 0)
    if kind == "llama":
        changes.setdefault("pad_token_id", 0)
    config = tiny_config(kind, **changes)
    loader = transformers.AutoModelForSequenceClassification if labels else transformers.AutoModelForCausalLM
    torch.manual_seed(0)
    model = loader.from_config(config)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    """A word-level tokenizer of VOCABULARY."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)


def sentences(count: int, seed: int = 0, longest: int = 12) -> list[str]:
    """Random texts of the tiny vocabulary, of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, longest, (count,), generator=generator).tolist()
    return [
        " ".join(WORDS[i] for i in torch.randint(len(WORDS), (length,), generator=generator).tolist())
        for length in lengths
    ]
