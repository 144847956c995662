"""What each tensor of a checkpoint is, as data: adding an architecture is adding an entry to ARCHITECTURES.

Names are disk names, patterns regular expressions (see `merging.roles.Architecture`). A type that is not listed is
GENERIC: its matrices count as linear where Gram matrices of them were collected, and are averaged where not.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from merging.roles import NEVER, Architecture

_HEADS = r"^(?:classifier|classification_head|score|cls|lm_head|qa_outputs)\."
_DECODER_NORM = r"(?:^|\.|_)norm\.(?:weight|bias)$|layernorm\.(?:weight|bias)$"

_BERT = Architecture(
    name="BERT",
    linear=r"(?:^|\.)(?:query|key|value|dense)\.weight$",
    embedding=r"embeddings\.(?:word|position|token_type)_embeddings\.weight$",
    norm=r"LayerNorm\.(?:weight|bias|gamma|beta)$",
    heads=_HEADS,
    prefix="bert.",
    tied=("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    head_copies=("cls.predictions.decoder.weight",),
)
_ROBERTA = replace(
    _BERT,
    name="RoBERTa",
    norm=r"(?:LayerNorm|layer_norm)\.(?:weight|bias|gamma|beta)$",
    prefix="roberta.",
    tied=("roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
    head_copies=("lm_head.decoder.weight",),
)
_DISTILBERT = Architecture(
    name="DistilBERT",
    linear=r"(?:^|\.)(?:[qkv]_lin|out_lin|lin[12])\.weight$",
    embedding=r"embeddings\.(?:word|position)_embeddings\.weight$",
    norm=r"(?:layer_norm|LayerNorm)\.(?:weight|bias)$",
    heads=r"^(?:pre_classifier|classifier|vocab_\w+|qa_outputs)\.",
    prefix="distilbert.",
    tied=("distilbert.embeddings.word_embeddings.weight", "vocab_projector.weight"),
    head_copies=("vocab_projector.weight",),
)
_DEBERTA = Architecture(
    name="DeBERTa",
    linear=r"(?:^|\.)(?:query_proj|key_proj|value_proj|pos_proj|pos_q_proj|pos_key_proj|pos_query_proj|in_proj"
    r"|embed_proj|dense)\.weight$",
    embedding=r"embeddings\.(?:word|position|token_type)_embeddings\.weight$|rel_embeddings\.weight$",
    norm=r"LayerNorm\.(?:weight|bias|gamma|beta)$",
    heads=r"^(?:pooler|classifier|cls|lm_predictions|qa_outputs)\.",
    prefix="deberta.",
    tied=("deberta.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    head_copies=("cls.predictions.decoder.weight",),
    optional=NEVER,
)
_DEBERTA_1 = replace(_DEBERTA, length_matters=True)  # as many relative positions as the longest text needs
_ELECTRA = replace(
    _BERT,
    name="ELECTRA",
    linear=r"(?:^|\.)(?:query|key|value|dense|embeddings_project)\.weight$",
    heads=r"^(?:classifier|discriminator_predictions|generator_predictions|generator_lm_head|qa_outputs)\.",
    prefix="electra.",
    tied=("electra.embeddings.word_embeddings.weight", "generator_lm_head.weight"),
    head_copies=("generator_lm_head.weight",),
)
_MPNET = replace(
    _ROBERTA,
    name="MPNet",
    linear=r"(?:^|\.)(?:attn\.[qkvo]|dense)\.weight$",
    embedding=r"embeddings\.(?:word|position)_embeddings\.weight$|relative_attention_bias\.weight$",
    prefix="mpnet.",
    tied=("mpnet.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
)
_MODERNBERT = Architecture(
    name="ModernBERT",
    linear=r"(?:^|\.)(?:Wqkv|Wo|Wi|dense)\.weight$",
    embedding=r"tok_embeddings\.weight$",
    norm=r"norm\.(?:weight|bias)$",
    heads=r"^(?:classifier|head|decoder)\.",
    prefix="model.",
    tied=("model.embeddings.tok_embeddings.weight", "decoder.weight"),
    head_copies=("decoder.weight",),
)
_T5 = Architecture(
    name="T5",
    linear=r"(?:Attention\.[qkvo]|DenseReluDense\.w[io](?:_[01])?)\.weight$",
    embedding=r"(?:shared|embed_tokens|relative_attention_bias)\.weight$",
    norm=r"layer_norm\.weight$",
    heads=_HEADS,
    prefix="transformer.",
    tied=("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
    encoder=r"(?:^|\.)encoder\.|EncDecAttention\.[kv]\.",
    sequence_pairs=True,
)
_BART = Architecture(
    name="BART",
    linear=r"(?:^|\.)(?:[qkv]_proj|out_proj|fc[12]|dense)\.weight$",
    embedding=r"(?:shared|embed_tokens|embed_positions)\.weight$",
    norm=r"(?:layer_norm|layernorm_embedding)\.(?:weight|bias)$",
    heads=_HEADS,
    prefix="model.",
    tied=(
        "model.shared.weight",
        "model.encoder.embed_tokens.weight",
        "model.decoder.embed_tokens.weight",
        "lm_head.weight",
    ),
    head_copies=("lm_head.weight",),
    encoder=r"(?:^|\.)encoder\.|encoder_attn\.[kv]_proj\.",
    sequence_pairs=True,
)
_LLAMA = Architecture(
    name="Llama",
    linear=r"(?:^|\.)(?:[qkvo]_proj|gate_proj|up_proj|down_proj|qkv_proj|gate_up_proj)\.weight$",
    embedding=r"embed_tokens\.weight$",
    norm=_DECODER_NORM,
    heads=_HEADS,
    prefix="model.",
    tied=("model.embed_tokens.weight", "lm_head.weight"),
    head_copies=("lm_head.weight",),
    ties_by_default=False,
)
_GEMMA = replace(_LLAMA, name="Gemma", ties_by_default=True)
_PHI = replace(_LLAMA, name="Phi", linear=r"(?:^|\.)(?:[qkv]_proj|dense|fc[12])\.weight$")
_EXPERTS = replace(
    _LLAMA,
    name="Mixtral-like experts",
    linear=_LLAMA.linear + r"|\.experts\.\d+\.w[123]\.weight$",
    router=r"(?:\.gate|shared_expert_gate)\.weight$",
)
_GPT2 = Architecture(
    name="GPT-2",
    linear=NEVER,
    conv1d=r"(?:^|\.)(?:c_attn|c_proj|c_fc|q_attn)\.weight$",
    embedding=r"(?:^|\.)w[tp]e\.weight$",
    norm=r"(?:^|\.)ln_(?:1|2|f|cross_attn)\.(?:weight|bias)$",
    heads=_HEADS,
    prefix="transformer.",
    tied=("transformer.wte.weight", "lm_head.weight"),
    head_copies=("lm_head.weight",),
)
_VIT = Architecture(
    name="ViT",
    linear=r"(?:^|\.)(?:query|key|value|dense)\.weight$",
    patch=r"patch_embeddings\.projection\.weight$",
    embedding=r"(?:position_embeddings|cls_token|distillation_token|mask_token)$",
    norm=r"layernorm(?:_before|_after)?\.(?:weight|bias)$",
    heads=r"^(?:classifier|cls_classifier|distillation_classifier)\.",
    prefix="vit.",
    vision=r"",
)
_CLIP = Architecture(
    name="CLIP",
    linear=r"(?:^|\.)(?:[qkv]_proj|out_proj|fc[12]|text_projection|visual_projection)\.weight$",
    patch=r"patch_embedding\.weight$",
    embedding=r"(?:token_embedding|position_embedding)\.weight$|class_embedding$",
    norm=r"(?:layer_norm[12]?|layernorm|layrnorm)\.(?:weight|bias)$",
    heads=r"^classifier\.",
    vision=r"^(?:vision_model|visual_projection)\.",
)
GENERIC = Architecture(
    name="not tested",
    linear=r"\.weight$",
    embedding=r"(?:embed\w*|wte|wpe)(?:\.weight)?$",
    norm=r"norm\w*\.(?:weight|bias)$",
    heads=_HEADS,
    tested=False,
)

ARCHITECTURES: dict[str, Architecture] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": _DISTILBERT,
    "deberta": _DEBERTA_1,
    "deberta-v2": _DEBERTA,
    "electra": _ELECTRA,
    "mpnet": _MPNET,
    "modernbert": _MODERNBERT,
    "t5": _T5,
    "mt5": _T5,
    "bart": _BART,
    "mbart": _BART,
    "gpt2": _GPT2,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "phi3": _LLAMA,
    "gemma": _GEMMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "phi": _PHI,
    "mixtral": _EXPERTS,
    "qwen3_moe": _EXPERTS,
    "vit": _VIT,
    "clip": _CLIP,
}


def architecture_of(config: Mapping[str, Any]) -> Architecture | None:
    """The architecture that a config.json names, GENERIC when it is not listed, None when it names no type."""
    kind = str(config.get("model_type") or "")
    return ARCHITECTURES.get(kind, GENERIC) if kind else None
