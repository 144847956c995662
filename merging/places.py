"""Where a tensor stands in its model, for people: its layer and its block, from its name on disk.

The blocks are a fixed set of words, whatever a stranger calls his tensors: one table fits all architectures.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from merging.layers import layer_of
from merging.roles import Role

EMBEDDINGS, FINAL, HEAD = "embeddings", "final", "head"  # what stands before, behind and above the layers
OTHER, LAYERS = "other", "layers"
MOST = 500  # numbered layers; what has more is shown as one
PARTS = (
    ("cross-attention", r"EncDecAttention|encoder_attn|cross_?attn|crossattention"),
    ("attention", r"att(?:n|ention)"),
)  # of a layer, searched in the name; the rest is "mlp"
WEIGHTS = r"\.(?:weight|bias|gamma|beta)$"
IN_ATTENTION = (
    ("query", r"(?:^|\.)(?:q|query|q_proj|q_lin|query_proj|q_attn|pos_q_proj|pos_query_proj)$"),
    ("key", r"(?:^|\.)(?:k|key|k_proj|k_lin|key_proj|pos_proj|pos_key_proj)$"),
    ("value", r"(?:^|\.)(?:v|value|v_proj|v_lin|value_proj)$"),
    ("in", r"(?:^|\.)(?:c_attn|in_proj|Wqkv|qkv|qkv_proj|query_key_value)$"),  # query, key and value in one
    ("output", r"(?:^|\.)(?:o|o_proj|out_proj|out_lin|Wo|c_proj|dense)$"),
)
IN_MLP = (
    ("gate", r"(?:^|\.)(?:gate_proj|wi_0|w1)$"),
    ("up", r"(?:^|\.)(?:intermediate\.dense|lin1|wi|wi_1|Wi|fc1|c_fc|up_proj|gate_up_proj|w3|dense_h_to_4h)$"),
    ("down", r"(?:^|\.)(?:output\.dense|lin2|wo|Wo|fc2|c_proj|down_proj|w2|dense_4h_to_h)$"),
)
ORDER = (
    "embedding",
    *(f"{part}.{block}" for part, _ in reversed(PARTS) for block, _ in IN_ATTENTION),
    *(f"mlp.{block}" for block, _ in IN_MLP),
    "router",
    "norm",
    OTHER,
    HEAD,
)  # of the blocks in a table


@dataclass(frozen=True)
class Places:
    """The layers and blocks that some tensors stand in, in order, and each tensor's own: (layer, block)."""

    layers: tuple[str, ...]
    blocks: tuple[str, ...]
    of: Mapping[str, tuple[str, str]]


def places(roles: Mapping[str, Role]) -> Places:
    """The place of every tensor of a model (name on disk -> role).

    Layers are numbered; where there are several stacks, by their name too (`encoder 0`, `decoder 0`).
    """
    found = {name: layer_of(name) for name in roles}
    stacks = _titles(dict.fromkeys(place[0] for place in found.values() if place))
    numbers = {stack: number for number, stack in enumerate(stacks)}
    of: dict[str, tuple[str, str]] = {}
    numbered: set[tuple[int, int]] = set()
    for name, role in roles.items():
        place = None if role.head else found[name]
        if place:
            numbered.add((numbers[place[0]], place[1]))
        layer = f"{stacks[place[0]]}{place[1]}" if place else _outside(name, role)
        of[name] = layer, block_of(name, role)
    titles = list(stacks.values())
    shown = [f"{titles[stack]}{number}" for stack, number in sorted(numbered)]
    known = set(shown)
    if len(shown) > MOST:
        of = {name: (LAYERS if layer in known else layer, block) for name, (layer, block) in of.items()}
        shown = [LAYERS]
    layers = [EMBEDDINGS, *shown, FINAL, HEAD]
    seen = set(of.values())
    return Places(
        tuple(layer for layer in layers if any(layer == one for one, _ in seen)),
        tuple(block for block in ORDER if any(block == one for _, one in seen)),
        of,
    )


def block_of(name: str, role: Role) -> str:
    """What a tensor is inside its layer: `attention.query`, `mlp.up`, `norm`, ...; biases go with their weights."""
    if role.head:
        return HEAD
    if role.kind in ("embedding", "patch"):
        return "embedding"
    if role.kind in ("norm", "router"):
        return role.kind
    place = layer_of(name)
    if place is None:
        return OTHER
    rest = re.sub(WEIGHTS, "", name[len(place[0]) :])
    part = next((part for part, pattern in PARTS if re.search(pattern, rest, re.IGNORECASE)), "mlp")
    for block, pattern in IN_MLP if part == "mlp" else IN_ATTENTION:
        if re.search(pattern, rest):
            return f"{part}.{block}"
    return OTHER


def _outside(name: str, role: Role) -> str:
    if role.head:
        return HEAD
    first = role.kind in ("embedding", "patch") or "embed" in name.lower() or "pre_layrnorm" in name
    return EMBEDDINGS if first else FINAL


def _titles(stacks: Iterable[str]) -> dict[str, str]:
    """Stack -> what stands before its numbers: the first part of its name that the others have not; "" for one."""
    names = list(stacks)
    if len(names) < 2:
        return dict.fromkeys(names, "")
    parts = {name: [part for part in re.split(r"[._]", name) if part] for name in names}
    shared = set.intersection(*(set(own) for own in parts.values()))
    titles = {name: next((part for part in own if part not in shared), "")[:20] for name, own in parts.items()}
    if len(set(titles.values())) < len(names):
        return {name: f"{number + 1}: " for number, name in enumerate(names)}
    return {name: f"{title} " if title else "" for name, title in titles.items()}
