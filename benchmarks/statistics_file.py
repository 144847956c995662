"""RegMean against the number of texts its Gram matrices come from, and against smaller forms of their file.

    python -m benchmarks.statistics_file --seeds 0 1 2

Three skills. The forms are simulated: a full Gram of 600 texts is put into the form and back, and merged from.
Prints mean accuracy in percent ± standard deviation over the seeds, and the bytes of one model's file.
"""

import argparse
import statistics as numbers
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.body import Body, Grams, Weights, read_grams
from benchmarks.tasks import MAX_LENGTH, SKILL_FAMILY, Run, cell, last
from merging.calibrate import choose_texts, collect
from merging.methods.regmean import regmean
from merging.statistics import Statistics
from merging.tensors import TensorGroup

ALPHAS = (1.0, 0.9)
COUNTS = (25, 50, 100, 200, 400, 600, 1200)
Form = Callable[[Tensor], tuple[Tensor, int]]  # G (n, n) float32 -> what the form makes of it, its bytes


def triangle(n: int) -> int:
    return n * (n + 1) // 2


def full(gram: Tensor) -> tuple[Tensor, int]:
    return gram, 4 * triangle(len(gram))


def scaled(gram: Tensor, dtype: torch.dtype) -> tuple[Tensor, int]:
    """Divided by the largest value, which is stored beside it."""
    scale = gram.abs().max()
    return (gram / scale).to(dtype).float() * scale, dtype.itemsize * triangle(len(gram)) + 4


def correlation(gram: Tensor, bits: int) -> tuple[Tensor, int]:
    """The diagonal in float32; off it Gᵢⱼ / √(Gᵢᵢ Gⱼⱼ), between -1 and 1, as integers of so many bits."""
    root = gram.diagonal().clamp_min(0).sqrt()
    outer = torch.outer(root, root).clamp_min(1e-30)
    steps = 2 ** (bits - 1) - 1
    back = (gram / outer * steps).round() / steps * outer
    back.diagonal().copy_(gram.diagonal())
    return back, bits * (triangle(len(gram)) - len(gram)) // 8 + 4 * len(gram)


def factor(gram: Tensor, bits: int) -> tuple[Tensor, int]:
    """The Cholesky factor in integers of so many bits with a float32 scale a row: G stays positive definite."""
    wide = gram.double()
    wide.diagonal().add_(1e-6 * wide.diagonal().mean() + 1e-30)
    lower = torch.linalg.cholesky(wide)
    scale = lower.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    lower = (lower / scale).round() * scale
    return (lower @ lower.T).float(), bits * triangle(len(gram)) // 8 + 4 * len(gram)


def blocks(gram: Tensor, parts: int, *, above: int = 0, then: Form = full) -> tuple[Tensor, int]:
    """Block-diagonal, in `parts` blocks of neighbouring inputs, for layers of more than `above` inputs."""
    if len(gram) <= above:
        return then(gram)
    size, back, total = len(gram) // parts, torch.zeros_like(gram), 0
    for begin in range(0, len(gram), size):
        place = (slice(begin, begin + size),) * 2
        back[place], nbytes = then(gram[place])
        total += nbytes
    return back, total


def low_rank(gram: Tensor, share: int, bits: int = 32) -> tuple[Tensor, int]:
    """The largest n/share eigenvectors, below 32 bits as integers with a scale each, and the diagonal of G."""
    rank = len(gram) // share
    values, vectors = torch.linalg.eigh(gram.double())
    columns = vectors[:, -rank:] * values[-rank:].clamp_min(0).sqrt()
    if bits < 32:
        scale = columns.abs().amax(0) / (2 ** (bits - 1) - 1) + 1e-30
        columns = (columns / scale).round() * scale
    back = columns @ columns.T
    back.diagonal().copy_(gram.diagonal().double().maximum(back.diagonal()))
    return back.float(), bits * len(gram) * rank // 8 + 4 * len(gram)


def diagonal(gram: Tensor) -> tuple[Tensor, int]:
    return gram.diagonal().diag(), 4 * len(gram)


FORMS: dict[str, Form] = {
    "float16 with a scale": partial(scaled, dtype=torch.float16),
    "bfloat16": partial(scaled, dtype=torch.bfloat16),
    "correlations in 8 bits": partial(correlation, bits=8),
    "correlations in 4 bits": partial(correlation, bits=4),
    "Cholesky factor in 8 bits": partial(factor, bits=8),
    "Cholesky factor in 4 bits": partial(factor, bits=4),
    "4 diagonal blocks": partial(blocks, parts=4),
    "8 diagonal blocks": partial(blocks, parts=8),
    "4 blocks for wide layers, 16-bit correlations": partial(
        blocks, parts=4, above=384, then=partial(correlation, bits=16)
    ),
    "rank n/4 + diagonal": partial(low_rank, share=4),
    "rank n/8 + diagonal": partial(low_rank, share=8),
    "rank n/8 + diagonal in 8 bits": partial(low_rank, share=8, bits=8),
    "rank n/32 + diagonal": partial(low_rank, share=32),
    "diagonal": diagonal,
}
BOTH = ("25 texts", "100 texts", "600 texts", "correlations in 8 bits", "correlations in 4 bits")  # at each of ALPHAS


def gathered(run: Run) -> Iterator[tuple[int, list[Grams], dict[str, str], list[dict[str, int]]]]:
    """(texts, Grams, aliases, tokens) for each of COUNTS; every text is run once, by pieces that are added up."""
    sums: list[Grams] = [{} for _ in run.family.tasks]
    tokens: list[dict[str, int]] = [{} for _ in run.family.tasks]
    aliases: dict[str, str] = {}
    for begin, end in zip((0, *COUNTS), COUNTS, strict=False):
        for index, (task, model) in enumerate(zip(run.family.tasks, run.models(), strict=True)):
            path = run.folder / "statistics" / f"{task}-gram-{begin}-{end}.safetensors"
            if not path.is_file():
                texts = choose_texts(run.texts(task), end, 0)[begin:]
                last(collect("gram", model, texts, path, examples=len(texts), max_length=MAX_LENGTH))
            grams, aliases, counts = read_grams(Statistics(path))
            for key, gram in grams.items():
                sums[index][key] = sums[index].get(key, 0) + gram.double() * counts[key]
                tokens[index][key] = tokens[index].get(key, 0) + counts[key]
        means = [
            {key: (total / tokens[index][key]).float() for key, total in own.items()} for index, own in enumerate(sums)
        ]
        yield end, means, aliases, tokens


def solved(group: TensorGroup, dtype: torch.dtype, ridge: float = 1e-6) -> Tensor:
    """RegMean at alpha 1 as `merging.methods.regmean` has it, wholly in `dtype`."""
    tensors, grams = [t.to(dtype) for t in group.tensors], [g.to(dtype) for g in group.grams or ()]
    total, mean = torch.stack(grams).mean(0), torch.stack(tensors).mean(0)
    total.diagonal().add_(ridge * total.diagonal().mean())
    pull = sum((t - mean) @ g for t, g in zip(tensors, grams, strict=True)) / len(grams)
    factor, info = torch.linalg.cholesky_ex(total)
    if int(info):
        raise ArithmeticError(f"{group.name}: not positive definite in {dtype}")
    return (mean + torch.cholesky_solve(pull.T, factor).T).float()


@dataclass(frozen=True)
class Row:
    """One way to have statistics: mean accuracy by alpha in percent, and the megabytes of one model's file."""

    accuracy: dict[float, float]
    size: float
    tokens: float = 0
    factor: float = 0  # megabytes as the R of a QR, which has no more rows than there were tokens


def of_run(run: Run) -> dict[str, Row]:
    """Every row of the tables for one seed."""
    body, models = Body(run), len(run.family.tasks)
    rows: dict[str, Row] = {"average": Row(dict.fromkeys(ALPHAS, body_mean(run, "average", body, body.average)), 0)}

    def accuracy(name: str, grams: Sequence[Grams], aliases: dict[str, str]) -> dict[float, float]:
        return {
            alpha: body_mean(
                run,
                f"{name}, alpha {alpha:g}",
                body,
                partial(body.with_grams, grams, aliases, partial(regmean, alpha=alpha)),
            )
            for alpha in (ALPHAS if name in BOTH else ALPHAS[:1])
        }

    for count, grams, aliases, tokens in gathered(run):
        sizes = [(len(gram), tokens[index][key]) for index, own in enumerate(grams) for key, gram in own.items()]
        rows[f"{count} texts"] = Row(
            accuracy(f"{count} texts", grams, aliases),
            sum(4 * triangle(n) for n, _ in sizes) / models / 1e6,
            numbers.mean(max(own.values()) for own in tokens),
            sum(4 * (triangle(n) - triangle(max(0, n - seen))) for n, seen in sizes) / models / 1e6,
        )
        if count == 600:
            for name, form in FORMS.items():
                made = [{key: form(gram) for key, gram in own.items()} for own in grams]
                back = [{key: gram for key, (gram, _) in own.items()} for own in made]
                size = sum(nbytes for own in made for _, nbytes in own.values()) / models / 1e6
                rows[name] = Row(accuracy(name, back, aliases), size)
            make = partial(solved, dtype=torch.float32)
            single = body_mean(run, "solve in float32", body, partial(body.with_grams, grams, aliases, make))
            rows["solve in float32"] = Row({1.0: single}, 0)
    return rows


def body_mean(run: Run, name: str, body: Body, make: Callable[[], Weights]) -> float:
    """Mean accuracy of what `make` gives, kept by name."""
    return numbers.mean(run.remembered(f"file: {name}", lambda: body.score(make())).values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    wish = parser.parse_args()
    torch.set_num_threads(1)
    runs = [of_run(Run(SKILL_FAMILY, seed)) for seed in wish.seeds]
    print(f"\n{len(runs)} seeds\n\n| | tokens | alpha 1 | alpha 0.9 | MB | MB as R |\n{'| --- ' * 6}|")
    for name, row in runs[0].items():
        found = [cell(run[name].accuracy[alpha] for run in runs) if alpha in row.accuracy else "" for alpha in ALPHAS]
        print(f"| {name} | {row.tokens:.0f} | {' | '.join(found)} | {row.size:.1f} | {row.factor:.1f} |")


if __name__ == "__main__":
    main()
