"""What a training step costs: adapters against PEFT's LoRA, and the alignment terms against a step without them.

    python benchmarks/steps.py [--threads 2] [--repetitions 15]

One process, all variants interleaved, median of the ratios to the baseline of the same repetition. Appends rows of the
data set "perf" to results/perf.jsonl (they replace older ones). About ten minutes on two idle cores; with a CUDA device
also a decoder of a billion parameters in bfloat16, with its peak memory.
"""

import copy
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
import typer
from torch import Tensor, nn

from isogram.bench import Row, replace_rows
from isogram.config import Config, ModelConfig, TermWeights, TrainConfig
from isogram.data import load
from isogram.federation import align, start_training, targets
from isogram.model.adapters import METHODS, adapt
from isogram.model.trunk import base_model

PATH = Path("results/perf.jsonl")
RANK, BATCH = 8, 32
OURS = {"geolora": "geolora", "geodora": "geodora", "dora-factored": "dora"}
"""Row -> adapter method. `dora` moves A, so its norm is the factored one of arXiv 2603.22276."""

Step = Callable[[], object]


def variants(base: nn.Module, targets: list[str]) -> dict[str, nn.Module]:
    """The same transformer under each adapter; PEFT's LoRA is the baseline."""
    from peft import LoraConfig, get_peft_model

    found: dict[str, nn.Module] = {}
    for name, dora in (("peft-lora", False), ("peft-dora", True)):
        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets, use_dora=dora)
        found[name] = get_peft_model(copy.deepcopy(base), config)
    for name, method in OURS.items():
        model = copy.deepcopy(base)
        adapt(model, targets, METHODS[method], RANK)
        found[name] = model
    return found


def step_of(model: nn.Module, tokens: Tensor) -> Step:
    """Forward, backward, AdamW."""
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def step() -> None:
        loss = model(inputs_embeds=tokens).last_hidden_state.float().mean(1).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def ratios(steps: dict[str, Step], baseline: str, repetitions: int, wait: Step = int) -> dict[str, float]:
    """Median over repetitions of each variant's seconds over the baseline's in the same repetition."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repetition in range(repetitions + 2):
        for name, step in steps.items():
            wait()
            start = time.perf_counter()
            step()
            wait()
            if repetition >= 2:  # the first ones allocate
                seconds[name].append(time.perf_counter() - start)
    print({name: f"{median(values) * 1000:.1f} ms" for name, values in seconds.items()}, flush=True)
    base = seconds[baseline]
    return {name: median([a / b for a, b in zip(values, base, strict=True)]) for name, values in seconds.items()}


def bytes_kept(model: nn.Module, tokens: Tensor) -> int:
    """Bytes that a forward pass keeps for the backward pass, beside parameters."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        model(inputs_embeds=tokens)
    return sum(kept.values())


def adapters(repetitions: int) -> list[Row]:
    """MiniLM, batch 32."""
    base = base_model(ModelConfig(trunk="minilm"))
    targets = [name for name, module in base.named_modules() if isinstance(module, nn.Linear)]
    rows = []
    for length in (16, 64):
        models = variants(base, targets)
        tokens = torch.randn(BATCH, length, base.config.hidden_size, generator=torch.Generator().manual_seed(0))
        found = ratios({name: step_of(model, tokens) for name, model in models.items()}, "peft-lora", repetitions)
        kept = {name: bytes_kept(model, tokens) for name, model in models.items()}
        ours = [name for name in models if name != "peft-lora"]
        rows += [perf(name, "step_ratio", f"{length}tok", found[name]) for name in ours]
        rows += [perf(name, "activation_ratio", f"{length}tok", kept[name] / kept["peft-lora"]) for name in ours]
    return rows


def alignment(repetitions: int) -> list[Row]:
    """A node's round on `machines`, 256 anchors: all terms against task and teacher alone; per step, eight a round."""
    data = load("machines", anchors=256, seed=0)
    variants = {
        "without": (TermWeights.only(task=0.1, teacher=1), 6),
        "aligned": (TermWeights(), 6),
        "aligned-whole": (TermWeights(), 256),
    }
    rows = []
    for trunk in ("minilm", "small"):
        steps: dict[str, Step] = {}
        for name, (weights, live) in variants.items():
            train = TrainConfig(weights=weights, anchor_batch=live)
            config = Config(data="machines", anchors=256, model=ModelConfig(trunk=trunk), train=train)
            fed = start_training(align(data, config))
            node = fed.nodes[1]  # the log: eight tokens a row
            steps[name] = partial(node.train_round, fed.deliver(node, "targets", targets(fed, node, 2)))
        found = ratios(steps, "without", repetitions)
        rows += [perf(n, "step_ratio", f"{trunk}-256-anchors", value) for n, value in found.items() if n != "without"]
    return rows


def billion(repetitions: int) -> list[Row]:
    """A random decoder of the shape of a 1B Llama in bfloat16, on a GPU: batch 8, 64 tokens; time and peak memory."""
    from transformers import LlamaConfig, LlamaModel

    shape = LlamaConfig(
        vocab_size=2,
        hidden_size=2048,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        intermediate_size=8192,
        use_cache=False,
    )
    with torch.device("cuda"):
        base = LlamaModel(shape).to(torch.bfloat16)
    layers = [name for name, module in base.named_modules() if isinstance(module, nn.Linear)]
    tokens = torch.randn(8, 64, shape.hidden_size, device="cuda", dtype=torch.bfloat16)
    models = variants(base, layers)
    steps = {name: step_of(model, tokens) for name, model in models.items()}
    found = ratios(steps, "peft-lora", repetitions, torch.cuda.synchronize)
    peak = {}
    for name, step in steps.items():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        peak[name] = torch.cuda.max_memory_allocated() - before
    rows = []
    for name in models:
        if name != "peft-lora":
            rows.append(perf(name, "step_ratio", "1b-bf16-64tok", found[name]))
            rows.append(perf(name, "memory_ratio", "1b-bf16-64tok", peak[name] / peak["peft-lora"]))
    return rows


def perf(method: str, metric: str, direction: str, value: float) -> Row:
    """A row of the data set "perf"."""
    return Row("perf", method, 0, 0, metric, direction, round(value, 4))


def main(threads: int = 2, repetitions: int = 15) -> None:
    """Measure, print, and put the rows in the place of older ones."""
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(threads)
    parts = [adapters, alignment, *([billion] if torch.cuda.is_available() else [])]
    for part in parts:
        rows = part(repetitions)
        replace_rows(PATH, rows)
        for row in rows:
            print(f"{row.method:15} {row.metric:17} {row.direction:20} {row.value:.3f}", flush=True)


if __name__ == "__main__":
    typer.run(main)
