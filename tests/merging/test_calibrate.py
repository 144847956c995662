"""Gram matrices of real tiny models against computations written here: hooks and plain linear algebra."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from merging.calibrate import choose_texts, collect
from merging.errors import InputError
from merging.grams import GramCollector, Masks, SharingChanged, real_rows, shared_inputs
from merging.naming import prove_names
from merging.progress import Progress
from merging.statistics import Statistics, check_values
from merging.tensors import MemorySource
from tests.tiny_models import save_tiny, sentences

torch.set_num_threads(1)
TEXTS = sentences(11, seed=5)


def run(kind: Any, folder: Path, texts: list[str], **options: Any) -> tuple[Statistics, list[Progress]]:
    """Collect to the end, from all texts unless told otherwise."""
    options = {"examples": len(texts), "batch_size": 4, "max_length": 32, **options}
    out = folder.parent / f"{folder.name}-{kind}.safetensors"
    reports = list(collect(kind, folder, texts, out, **options))
    check_values(out)
    return Statistics(out), reports


def loaded(folder: Path) -> tuple[Any, Any]:
    """Model in eval mode and tokenizer, by plain transformers."""
    config = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(transformers, config.architectures[0]).from_pretrained(folder, attn_implementation="eager")
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


def reference_grams(folder: Path, texts: list[str]) -> dict[str, tuple[Tensor, int]]:
    """Module -> (sum of x xᵀ in float64, rows), one unpadded text at a time: no mask can be wrong."""
    model, tokenizer = loaded(folder)
    found: dict[str, tuple[Tensor, int]] = {}

    def hook(name: str) -> Any:
        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            rows = [*args, *kwargs.values()][0].reshape(-1, module.weight.shape[0 if type(module) is Conv1D else 1])
            total, count = found.get(name, (0, 0))
            found[name] = (total + torch.einsum("ti,tj->ij", rows.double(), rows.double()), count + len(rows))

        return before

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            module.register_forward_pre_hook(hook(name), with_kwargs=True)
    with torch.no_grad():
        for text in texts:
            model(**tokenizer(text, return_tensors="pt"))
    return found


THREE = ("no", "yes", "so")


@pytest.mark.parametrize(
    ("kind", "labels"), [("bert", THREE), ("llama", THREE), ("gpt2", THREE), ("llama", None), ("gpt2", None)]
)
def test_gram_is_the_mean_over_real_tokens(tmp_path: Path, kind: str, labels: Any) -> None:
    """Padded batches give what unpadded single texts give, for every linear layer, the head's included."""
    changes = {} if labels else {"tie_word_embeddings": kind == "gpt2"}
    folder = save_tiny(tmp_path / kind, kind, labels=labels, **changes)
    statistics, _ = run("gram", folder, TEXTS)
    expected = reference_grams(folder, TEXTS)
    if changes.get("tie_word_embeddings"):
        expected.pop("lm_head")  # an embedding, whatever it is used for
    assert {f"{name}.weight" for name in expected} == set(statistics.fact.keys)
    for name, (total, count) in expected.items():
        gram = statistics.gram(f"{name}.weight").double()
        mean = total / count
        assert float((gram - mean).norm() / mean.norm()) < 1e-6, name
        assert statistics.fact.tokens[f"{name}.weight"] == count, name


def test_padding_does_not_count_and_would_matter(tmp_path: Path) -> None:
    """One long text makes the other one's padding: the Gram ignores it, and counting it gives another one."""
    folder = save_tiny(tmp_path / "bert")
    texts = ["one two three a b c a b c one", "two"]
    statistics, _ = run("gram", folder, texts, batch_size=2)
    model, tokenizer = loaded(folder)
    assert statistics.fact.tokens["bert.encoder.layer.1.output.dense.weight"] == 11
    seen: list[Tensor] = []
    layer = model.bert.encoder.layer[1].output.dense
    layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    padded = tokenizer(texts, padding=True, return_tensors="pt")
    model(**padded)
    rows = seen[0].double()
    real, everything = rows[padded["attention_mask"].bool()], rows.reshape(-1, rows.shape[-1])
    gram = statistics.gram("bert.encoder.layer.1.output.dense.weight").double()
    right, wrong = real.T @ real / len(real), everything.T @ everything / len(everything)
    assert float((gram - right).norm() / right.norm()) < 1e-6
    assert float((gram - wrong).norm() / wrong.norm()) > 0.05


def test_an_input_of_one_row_per_text_counts_every_row(tmp_path: Path) -> None:
    """The pooler and the classifier see one row a text: none is masked away."""
    statistics, _ = run("gram", save_tiny(tmp_path / "bert"), TEXTS)
    assert statistics.fact.tokens["bert.pooler.dense.weight"] == len(TEXTS)
    assert statistics.fact.tokens["classifier.weight"] == len(TEXTS)


@pytest.mark.parametrize(("kind", "same"), [("bert", 3), ("llama", 3), ("gpt2", 1)])
def test_layers_fed_by_one_tensor_share_one_gram(tmp_path: Path, kind: str, same: int) -> None:
    """q, k and v (and gate and up) are stored once, and nothing else is."""
    statistics, _ = run("gram", save_tiny(tmp_path / kind, kind), TEXTS)
    sizes: dict[str | None, list[str]] = {}
    for name in statistics.fact.keys:
        sizes.setdefault(statistics.gram_key(name), []).append(name)
    assert len(sizes) == len(statistics.specs)
    groups = [sorted(name.split(".")[-2] for name in names) for names in sizes.values() if len(names) > 1]
    expected = {"bert": [["key", "query", "value"]] * 2, "gpt2": []}
    both = [["k_proj", "q_proj", "v_proj"], ["gate_proj", "up_proj"]] * 2
    assert sorted(groups) == sorted(expected.get(kind, both))
    assert max(map(len, sizes.values())) == same


class Turns(nn.Module):
    """Two layers that share their input only for inputs of the first kind; one is called twice, by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """c sees what a gives, then what b gives."""
        y = self.c(input=self.a(x))
        return y + self.c(input=self.b(x if float(x.sum()) > 0 else x * 2))


def test_sharing_is_checked_in_every_batch() -> None:
    """What shared its input once, and does not later, is not called shared."""
    model = Turns()
    modules = {"a": model.a, "b": model.b, "c": model.c}
    groups = shared_inputs(modules, lambda: model(torch.ones(1, 2, 3)), set())
    assert groups == {"a": "a", "b": "a", "c": "c"}
    collector = GramCollector(modules, groups)
    mask = torch.ones(1, 2)
    with collector.watch(Masks(mask)):
        model(torch.ones(1, 2, 3))
    with pytest.raises(SharingChanged) as error, collector.watch(Masks(mask)):
        model(-torch.ones(1, 2, 3))
    assert error.value.key == "b"
    assert shared_inputs(modules, lambda: model(torch.ones(1, 2, 3)), {"b"})["b"] == "b"


def test_a_layer_called_twice_counts_both_inputs_and_hooks_are_removed() -> None:
    """Both calls are in the sum, also by keyword; an exception leaves no hook behind."""
    model = Turns()
    collector = GramCollector({"c": model.c}, {"c": "c"})
    x, mask = torch.rand(2, 3, 3), torch.tensor([[1, 1, 0], [1, 0, 0]])
    with collector.watch(Masks(mask)):
        model(x)
    rows = torch.cat([model.a(x)[mask.bool()], model.b(x)[mask.bool()]]).double()
    torch.testing.assert_close(dict(collector.means())["c"].double(), rows.T @ rows / 6, rtol=1e-6, atol=1e-7)
    with pytest.raises(RuntimeError), collector.watch(Masks(mask)):
        model(torch.rand(2, 3, 5))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_only_rows_of_tokens_are_masked() -> None:
    """A table of positions beside the batch, or one row a text, is not masked; flattened tokens are."""
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    shapes = {(2, 3, 5): (3, 1), (6, 5): (3, 1), (2, 5): (2, 1), (1, 7, 5): (7, 2)}  # the table: once for each text
    for shape, (count, times) in shapes.items():
        rows, each = real_rows(torch.rand(shape), mask)
        assert (len(rows), each) == (count, times), shape
    assert len(real_rows(torch.rand(2, 3, 5), None)[0]) == 6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_a_model_larger_than_memory_is_brought_in_layer_by_layer(tmp_path: Path, kind: str) -> None:
    """What does not fit stays on disk, Grams come in several passes: the same values, and nothing left behind."""
    folder = save_tiny(tmp_path / kind, kind, labels=None)
    whole, reports = run("gram", folder, TEXTS)
    kept = {name: whole.gram(name) for name in whole.fact.keys}
    before = set(tmp_path.iterdir())
    little, passes = run("gram", folder, TEXTS, memory=60_000)  # the model has 80,000 bytes and more
    assert passes[-1].total > reports[-1].total == len(TEXTS)
    assert little.fact.keys == whole.fact.keys
    for name, gram in kept.items():
        torch.testing.assert_close(little.gram(name), gram, rtol=1e-5, atol=1e-7)
    assert set(tmp_path.iterdir()) == before
    with pytest.raises(InputError, match="does not fit into memory: a Fisher needs its gradients there"):
        run("fisher", folder, TEXTS, memory=60_000)


def test_wide_layers_are_summed_by_blocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Blocks of the upper triangle give the same Gram as one product."""
    folder = save_tiny(tmp_path / "bert")
    whole, _ = run("gram", folder, TEXTS)
    name = "bert.encoder.layer.0.output.dense.weight"
    gram = whole.gram(name)
    monkeypatch.setattr("merging.grams.BLOCK", 20)
    blocks, _ = run("gram", folder, TEXTS)
    torch.testing.assert_close(blocks.gram(name), gram, rtol=1e-5, atol=1e-7)


def test_the_header_says_what_the_statistics_belong_to(tmp_path: Path) -> None:
    """Weights' SHA-256, model, data, number of examples, and progress up to the end."""
    import hashlib

    folder = save_tiny(tmp_path / "bert")
    options = {"model": "o/m", "revision": "r1", "dataset": "o/d:en:train", "dataset_revision": "d1", "seed": 9}
    statistics, reports = run("gram", folder, TEXTS, examples=6, **options)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert dict(statistics.fact.weights) == {"model.safetensors": digest}
    expected = {**options, "seed": "9", "examples": "6", "max_length": "32", "mask": "real tokens", "skipped": "{}"}
    assert expected.items() <= dict(statistics.metadata).items()
    assert [(report.done, report.total) for report in reports] == [(4, 6), (6, 6)]


def test_the_same_seed_draws_the_same_texts() -> None:
    """Which texts are drawn, and in which order, depends on the seed alone; blank ones are none."""
    assert choose_texts(["a", " ", "b", "c"], 2, 0) == choose_texts(["a", " ", "b", "c"], 2, 0)
    assert sorted(choose_texts(["a", " ", "b", "c"], 9, 0)) == ["a", "b", "c"]


def test_padding_is_on_the_right_and_may_be_the_end_token(tmp_path: Path) -> None:
    """GPT-2 has no pad token and pads on the left, which would move its positions: neither changes the Gram."""
    folder = save_tiny(tmp_path / "gpt2", "gpt2", labels=None)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "padding_side": "left"}))
    statistics, _ = run("gram", folder, TEXTS)
    total, count = reference_grams(folder, TEXTS)["transformer.h.1.mlp.c_proj"]
    torch.testing.assert_close(
        statistics.gram("transformer.h.1.mlp.c_proj.weight").double(), total / count, rtol=1e-5, atol=1e-7
    )


def test_a_head_that_is_not_on_disk_is_skipped_with_its_reason(tmp_path: Path) -> None:
    """A freshly drawn head is nobody's: no statistics for it."""
    folder = save_tiny(tmp_path / "bert")
    path = folder / "model.safetensors"
    save_file({name: value for name, value in load_file(path).items() if name != "classifier.weight"}, path)
    statistics, _ = run("gram", folder, TEXTS[:2])
    assert "classifier.weight" not in statistics.fact.keys
    reason = json.loads(statistics.metadata["skipped"])["classifier.weight"]
    assert reason == "no tensor on disk has its values"


def test_names_are_proven_by_value() -> None:
    """Name first; else the one tensor of the same values; several or none: skipped with the reason."""
    one, two, ones = torch.rand(2, 2), torch.rand(2, 2), torch.ones(2)
    disk = MemorySource(
        {"bert.a": one, "other": two, "n1": ones, "n2": ones, "moved": torch.rand(2), "int": ones.int()}
    )
    parameters = {"a": one, "b": two, "c": ones, "moved": torch.rand(2), "d": two + 1}
    names = prove_names(parameters, disk, "bert")
    assert names.disk == {"a": "bert.a", "b": "other"}
    assert names.skipped == {
        "c": "several tensors on disk have its values: n1, n2",
        "moved": "its values on disk are others",
        "d": "no tensor on disk has its values",
    }
    twice = prove_names({"x": one, "y": one}, MemorySource({"z": one}), "")
    assert twice.disk == {}
    assert twice.skipped["x"] == "z on disk has the values of several parameters"
    half = prove_names({"x": one.half().float()}, MemorySource({"x": one.half()}), "")
    assert half.disk == {"x": "x"}


def test_bad_input_has_a_sentence(tmp_path: Path) -> None:
    """No text, no weights, no such class, no GPU."""
    folder = save_tiny(tmp_path / "bert")
    with pytest.raises(InputError, match=r"There is no text to calibrate with: every row is empty\."):
        run("gram", folder, [" ", ""], examples=5)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["NoSuchModel"]}))
    with pytest.raises(InputError, match="transformers has no such class"):
        run("gram", folder, TEXTS)
    (folder / "config.json").write_text(json.dumps(config))
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="device cuda: this machine has none"):
            run("gram", folder, TEXTS, device="cuda")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="bert"):
        run("gram", folder, TEXTS)


def test_a_model_that_gives_nan_is_refused(tmp_path: Path) -> None:
    """Statistics with NaN are never written."""
    folder = save_tiny(tmp_path / "bert")
    weights = load_file(folder / "model.safetensors")
    weights["bert.encoder.layer.0.output.dense.bias"].fill_(float("inf"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="is not finite"):
        run("gram", folder, TEXTS)
    assert not (tmp_path / "bert-gram.safetensors").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["gram", "fisher"])
def test_a_gpu_gives_the_same_statistics(tmp_path: Path, kind: str) -> None:
    """The same code on CUDA, within float32 rounding."""
    folder = save_tiny(tmp_path / "bert")
    cpu, _ = run(kind, folder, TEXTS, device="cpu")
    before = {name: cpu.read(name) for name in cpu.specs}
    gpu, _ = run(kind, folder, TEXTS, device="cuda")
    for name, values in before.items():
        torch.testing.assert_close(gpu.read(name), values, rtol=1e-3, atol=1e-4 * float(values.max()))
