"""Tiny random models of real transformers classes, saved as a user would save them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "one", "two", "three"]
WORDS = ["one", "two", "three", "a", "b", "c"]


SIZES: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
GROUPED: dict[str, Any] = SIZES | {"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
IMAGE: dict[str, Any] = {
    **{key: SIZES[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")},
    "image_size": 16,
    "patch_size": 8,
}
PAIRS: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "d_model": 32,
    "pad_token_id": 0,
    "eos_token_id": 3,
    "decoder_start_token_id": 0,
}
T5: dict[str, Any] = PAIRS | {"d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
BART: dict[str, Any] = PAIRS | {
    "bos_token_id": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
}
DEBERTA: dict[str, Any] = SIZES | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
# model type (a note in brackets tells variants apart) -> what its tiny config is made from
TINY: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "roberta": SIZES | {"pad_token_id": 0},
    "distilbert": {"vocab_size": len(VOCABULARY), "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "deberta": DEBERTA | {"pooler_hidden_size": 32},
    "deberta-v2": DEBERTA
    | {"share_att_key": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm", "pooler_hidden_size": 32},
    "electra": SIZES | {"embedding_size": 16},
    "mpnet": SIZES | {"pad_token_id": 0},
    "modernbert": SIZES | {"pad_token_id": 0, "global_attn_every_n_layers": 2, "cls_token_id": 2, "sep_token_id": 3},
    "t5": T5,
    "t5 (gated)": T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "bart": BART,
    "gpt2": {
        "vocab_size": len(VOCABULARY),
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "pad_token_id": 0,
    },
    "llama": GROUPED,
    "mistral": GROUPED,
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_dim": 8},
    "gemma": GROUPED | {"head_dim": 8},
    "gemma2": GROUPED | {"head_dim": 8},
    "gemma3_text": GROUPED | {"head_dim": 8},
    "phi": SIZES | {"pad_token_id": 0},
    "phi3": GROUPED,
    "mixtral": GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": GROUPED | {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "vit": IMAGE,
    "clip": {
        "text_config": SIZES | {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
        "vision_config": IMAGE,
        "projection_dim": 16,
    },
}


def tiny_config(kind: str, **changes: Any) -> Any:
    """The config of a tiny model of a model type."""
    name = kind.partition(" ")[0]
    return transformers.AutoConfig.for_model(name, **TINY[kind] | changes)


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
    """Save a tiny random model with its tokenizer or image processor into `folder`.

    A classifier, or without labels a language model (of the kind its type is made for). All seeds share the base of
    seed 0 and differ by a small change, as fine-tunes do.
    """
    if labels:
        changes["id2label"] = dict(enumerate(labels))
        changes["label2id"] = {label: index for index, label in enumerate(labels)}
    config = tiny_config(kind, **changes)
    loader = _loader(config.model_type, bool(labels))
    torch.manual_seed(0)
    model = loader.from_config(config)
    vary(model, seed)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    if config.model_type != "vit":
        save_tokenizer(folder, ends=config.model_type in ("t5", "bart"))
    if config.model_type in ("vit", "clip"):
        size = {"height": 16, "width": 16} if config.model_type == "vit" else {"shortest_edge": 16}
        kept = {"size": size} | ({"crop_size": 16} if config.model_type == "clip" else {})
        processors: Any = (
            transformers.ViTImageProcessorPil if config.model_type == "vit" else transformers.CLIPImageProcessorPil
        )
        processors(**kept).save_pretrained(folder)
    return folder


def _loader(model_type: str, labels: bool) -> Any:
    if model_type == "vit":
        return transformers.AutoModelForImageClassification
    if model_type == "clip":
        return transformers.AutoModel
    if labels:
        return transformers.AutoModelForSequenceClassification
    if model_type in ("t5", "bart"):
        return transformers.AutoModelForSeq2SeqLM
    encoder = model_type in ("bert", "roberta", "distilbert", "deberta", "deberta-v2", "electra", "mpnet", "modernbert")
    return transformers.AutoModelForMaskedLM if encoder else transformers.AutoModelForCausalLM


def save_tokenizer(folder: Path, *, ends: bool = False) -> None:
    """A word-level tokenizer of VOCABULARY; `ends` puts [SEP] behind each text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if ends:
        template = processors.TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 3)])
        tokenizer.post_processor = template
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


def pictures(count: int, seed: int = 0) -> list[Any]:
    """Random images of 20 x 16 points."""
    from PIL import Image

    generator = torch.Generator().manual_seed(seed)
    return [
        Image.fromarray(torch.randint(0, 256, (16, 20, 3), generator=generator, dtype=torch.uint8).numpy())
        for _ in range(count)
    ]


def save_sentence_model(
    folder: Path, kind: str = "bert", *, seed: int = 0, dense: int = 0, normalize: bool = True, **config: Any
) -> Path:
    """Save a tiny sentence-transformers model: mean pooling, a Dense of `dense` outputs (none for 0), Normalize."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    plain = folder.with_name(f".{folder.name}")
    save_body(plain, kind, seed=seed)
    modules: list[Any] = [Transformer(str(plain)), Pooling(SIZES["hidden_size"], "mean")]
    if dense:
        modules.append(Dense(SIZES["hidden_size"], dense))
        generator = torch.Generator().manual_seed(seed + 2)
        with torch.no_grad():
            for parameter in modules[-1].parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    if normalize:
        modules.append(Normalize())
    SentenceTransformer(modules=modules, device="cpu", **config).save(str(folder), create_model_card=False)
    return folder


def save_body(folder: Path, kind: str = "bert", *, seed: int = 0, **changes: Any) -> Path:
    """Save a tiny model without a head (BertModel, ...), with its tokenizer."""
    config = tiny_config(kind, **changes)
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config)
    vary(model, seed)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def vary(model: torch.nn.Module, seed: int) -> None:
    """Add to each parameter what no other seed adds."""
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


def save_fine_tune(folder: Path, base: Path, scale: float = 0.1, seed: int = 0) -> Path:
    """Save a copy of a model in one file with a change to each tensor, of `scale` of its standard deviation."""
    folder.mkdir()
    for path in base.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(base / "model.safetensors")
    changed = {k: v + scale * v.std() * torch.randn(v.shape, generator=generator) for k, v in tensors.items()}
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
