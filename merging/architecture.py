"""What each tensor of a checkpoint is, as data: adding an architecture is adding an entry to ARCHITECTURES.

Names are disk names. Patterns are regular expressions searched in the whole name; the first that matches wins.
Covered: BERT-like encoders (BERT, RoBERTa, XLM-RoBERTa, DistilBERT), Llama-like decoders (Llama, Mistral, Qwen2,
Qwen3) and GPT-2. Not covered: everything else; `architecture_of` says None.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["linear", "conv1d", "embedding", "norm", "bias", "buffer", "other"]


@dataclass(frozen=True)
class Role:
    """What a tensor is: its kind decides the arithmetic, `head` whether it belongs to the task."""

    kind: Kind
    head: bool = False


@dataclass(frozen=True)
class Architecture:
    """The tensors of one family of models.

    `linear` weights are (out, in) and see each token's input once; `conv1d` weights are (in, out).
    `heads` are the tensors above the shared body.
    """

    name: str
    linear: str
    embedding: str
    norm: str
    heads: str
    conv1d: str = r"(?!)"
    buffers: str = r"(?:position_ids|token_type_ids|rotary_emb\.inv_freq|\.attn\.(?:masked_)?bias)$"
    tied: tuple[tuple[str, str], ...] = ()  # (copy, original) when the config ties word embeddings
    ties_by_default: bool = True  # when the config does not say

    def role(self, name: str, shape: tuple[int, ...]) -> Role:
        """What the tensor of that disk name and shape is."""
        head = bool(re.search(self.heads, name))
        if re.search(self.buffers, name):
            return Role("buffer", head)
        if name.endswith(".bias"):
            return Role("norm" if re.search(self.norm, name) else "bias", head)
        if re.search(self.embedding, name):
            return Role("embedding", head)
        if re.search(self.norm, name):
            return Role("norm", head)
        if len(shape) == 2 and re.search(self.conv1d, name):
            return Role("conv1d", head)
        if len(shape) == 2 and (re.search(self.linear, name) or head):
            return Role("linear", head)
        return Role("other", head)

    def ties(self, config: Mapping[str, Any]) -> bool:
        """Whether a model of that config uses its word embeddings to score the vocabulary too."""
        tied = config.get("tie_word_embeddings")
        return self.ties_by_default if tied is None else bool(tied)

    def tied_copies(self, config: Mapping[str, Any]) -> set[str]:
        """Names under which a file may hold the tied word embeddings once more."""
        return {copy for copy, _ in self.tied} if self.ties(config) else set()


_BERT = Architecture(
    name="BERT",
    linear=r"(?:^|\.)(?:query|key|value|dense)\.weight$",
    embedding=r"embeddings\.(?:word|position|token_type)_embeddings\.weight$",
    norm=r"LayerNorm\.(?:weight|bias|gamma|beta)$",
    heads=r"^(?:classifier|cls|lm_head|qa_outputs)\.",
    tied=(("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),),
)
_ROBERTA = Architecture(
    name="RoBERTa",
    linear=_BERT.linear,
    embedding=_BERT.embedding,
    norm=r"(?:LayerNorm|layer_norm)\.(?:weight|bias|gamma|beta)$",
    heads=_BERT.heads,
    tied=(("lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight"),),
)
_DISTILBERT = Architecture(
    name="DistilBERT",
    linear=r"(?:^|\.)(?:[qkv]_lin|out_lin|lin[12])\.weight$",
    embedding=r"embeddings\.(?:word|position)_embeddings\.weight$",
    norm=r"(?:layer_norm|LayerNorm)\.(?:weight|bias)$",
    heads=r"^(?:pre_classifier|classifier|vocab_\w+|qa_outputs)\.",
    tied=(("vocab_projector.weight", "distilbert.embeddings.word_embeddings.weight"),),
)
_LLAMA = Architecture(
    name="Llama",
    linear=r"(?:^|\.)(?:[qkvo]_proj|gate_proj|up_proj|down_proj)\.weight$",
    embedding=r"embed_tokens\.weight$",
    norm=r"(?:^|\.|_)norm\.weight$|layernorm\.weight$",
    heads=r"^(?:lm_head|score|classifier|qa_outputs)\.",
    tied=(("lm_head.weight", "model.embed_tokens.weight"),),
    ties_by_default=False,
)
_GPT2 = Architecture(
    name="GPT-2",
    linear=r"(?!)",
    conv1d=r"(?:^|\.)(?:c_attn|c_proj|c_fc|q_attn)\.weight$",
    embedding=r"(?:^|\.)w[tp]e\.weight$",
    norm=r"(?:^|\.)ln_(?:1|2|f|cross_attn)\.(?:weight|bias)$",
    heads=r"^(?:lm_head|score|classifier)\.",
    tied=(("lm_head.weight", "transformer.wte.weight"),),
)

ARCHITECTURES: dict[str, Architecture] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "distilbert": _DISTILBERT,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gpt2": _GPT2,
}


def architecture_of(config: Mapping[str, Any]) -> Architecture | None:
    """The architecture that a config.json names, None when it is not covered."""
    return ARCHITECTURES.get(str(config.get("model_type") or ""))
