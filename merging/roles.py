"""What a tensor of a checkpoint is, and how the names of two checkpoints of one architecture meet."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["linear", "conv1d", "patch", "embedding", "norm", "bias", "buffer", "router", "other"]
Reads = Literal["text", "pairs", "images", "images and text"]  # pairs: a text and its target
LINEAR: tuple[Kind, ...] = ("linear", "conv1d", "patch")  # what a Gram matrix of the inputs defines
NEVER = r"(?!)"  # a pattern that nothing matches
LEGACY = ((re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"), (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"))


@dataclass(frozen=True)
class Role:
    """What a tensor is: its kind decides the arithmetic, `head` whether it belongs to the task."""

    kind: Kind
    head: bool = False


@dataclass(frozen=True)
class Architecture:
    """The tensors of one family of models. Patterns are searched in the disk name; the first that matches wins.

    `linear` weights are (out, in), `conv1d` weights (in, out), `patch` weights (out, channels, height, width) of a
    convolution whose patches do not overlap: a linear layer on flattened patches. `heads` are the tensors above the
    shared body.
    """

    name: str
    linear: str
    embedding: str
    norm: str
    heads: str
    conv1d: str = NEVER
    patch: str = NEVER
    router: str = NEVER  # scores experts: averaged
    buffers: str = r"(?:position_ids|token_type_ids|rotary_emb\.inv_freq|\.attn\.(?:masked_)?bias|final_logits_bias)$"
    prefix: str = ""  # of the body in classes with a head; a file may have or lack it
    tied: tuple[str, ...] = ()  # names of the word embeddings; the first is the original, the rest copies
    head_copies: tuple[str, ...] = ()  # those of `tied` that are copies only when the config ties word embeddings
    ties_by_default: bool = True  # when the config does not say
    encoder: str = NEVER  # layers of an encoder-decoder that see the encoder's tokens
    sequence_pairs: bool = False  # an encoder-decoder: text in, text out
    length_matters: bool = False  # a layer's input depends on how long the batch is padded: batches of one length
    vision: str = NEVER  # layers that see an image's patches
    optional: str = r"(?:^|\.)pooler\."  # what a file of the same class may lack
    tested: bool = True  # False: not compared with an independent computation, see `architecture.GENERIC`

    def reads(self, config: Mapping[str, Any]) -> Reads:
        """What a model of that config is fed with."""
        if self.vision != NEVER:
            return "images and text" if self.vision else "images"
        kind = str((config.get("architectures") or [""])[0])
        alone = kind.endswith(("Classification", "Answering", "EncoderModel"))
        return "pairs" if self.sequence_pairs and not alone else "text"

    def role(self, name: str, shape: tuple[int, ...]) -> Role:
        """What the tensor of that disk name and shape is."""
        head = bool(re.search(self.heads, name))
        if re.search(self.buffers, name):
            return Role("buffer", head)
        if name.endswith(("bias", ".beta")) and "relative_attention" not in name:
            return Role("norm" if re.search(self.norm, name) else "bias", head)
        if re.search(self.embedding, name):
            return Role("embedding", head)
        if re.search(self.norm, name):
            return Role("norm", head)
        if re.search(self.router, name):
            return Role("router", head)
        if len(shape) == 4 and re.search(self.patch, name):
            return Role("patch", head)
        if len(shape) == 2 and re.search(self.conv1d, name):
            return Role("conv1d", head)
        if len(shape) == 2 and (re.search(self.linear, name) or head):
            return Role("linear", head)
        return Role("other", head)

    def ties(self, config: Mapping[str, Any]) -> bool:
        """Whether a model of that config uses its word embeddings to score the vocabulary too."""
        if "scale_decoder_outputs" in config:  # transformers 5 writes this for T5, where it always ties on paper
            return bool(config["scale_decoder_outputs"])
        tied = config.get("tie_word_embeddings")
        return self.ties_by_default if tied is None else bool(tied)

    def copies(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Names under which a file may hold the word embeddings once more."""
        own = () if self.ties(config) else self.head_copies
        return tuple(name for name in self.tied[1:] if name not in own)

    def key(self, name: str, config: Mapping[str, Any]) -> str:
        """What the tensor of that disk name is called in every checkpoint: no prefix, no legacy ending, no copy."""
        key = self.modern(name).removeprefix(self.prefix)
        if key in {copy.removeprefix(self.prefix) for copy in self.copies(config)}:
            return self.tied[0].removeprefix(self.prefix)
        return key

    def may_lack(self, name: str) -> bool:
        """Whether a checkpoint of the same architecture may do without the tensor of that name."""
        return bool(re.search(self.optional, name))

    def modern(self, name: str) -> str:
        """The name with the endings that transformers writes today."""
        for pattern, ending in LEGACY:
            name = pattern.sub(ending, name)
        return name


def inputs_of(kind: Kind, shape: tuple[int, ...]) -> int:
    """Number of inputs of a linear layer whose weight has that kind and shape."""
    if kind == "conv1d":
        return shape[0]
    size = 1
    for length in shape[1:]:
        size *= length
    return size
