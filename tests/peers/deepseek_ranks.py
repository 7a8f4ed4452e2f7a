"""Rank files of DeepSeek's demo made with torch, all ranks in memory: the thing to compare with.

    deepseek_ranks.py IN OUT RANKS

The form is that of docs/reshard.md: names of the demo, model{i}-mp{RANKS}.safetensors, projections divided by
rows or columns, each routed expert whole on one rank, no MTP layers, tokenizer files beside them.
"""

import json
import pathlib
import re
import shutil
import sys

from safetensors import safe_open
from safetensors.torch import save_file

# Module → its name in the demo and the dimension that the ranks divide.
MODULES = {
    "embed_tokens": ("embed", 0),
    "lm_head": ("head", 0),
    "norm": ("norm", None),
    "input_layernorm": ("attn_norm", None),
    "post_attention_layernorm": ("ffn_norm", None),
    "q_proj": ("wq", 0),
    "q_a_proj": ("wq_a", None),
    "q_a_layernorm": ("q_norm", None),
    "q_b_proj": ("wq_b", 0),
    "kv_a_proj_with_mqa": ("wkv_a", None),
    "kv_a_layernorm": ("kv_norm", None),
    "kv_b_proj": ("wkv_b", 0),
    "o_proj": ("wo", 1),
    "gate": ("gate", None),
    "gate_proj": ("w1", 0),
    "up_proj": ("w3", 0),
    "down_proj": ("w2", 1),
    # The indexer of V3.2.
    "wq_b": ("wq_b", None),
    "wk": ("wk", None),
    "k_norm": ("k_norm", None),
    "weights_proj": ("weights_proj", None),
}
PARTS = {"weight_scale_inv": "scale", "e_score_correction_bias": "bias"}
GROUPS = {"self_attn": "attn", "mlp": "ffn"}
EXPERT = re.compile(r"\.experts\.(\d+)\.")


def demo_name(name):
    """The demo's name of a tensor, and the dimension that is divided."""
    *groups, module, part = name.removeprefix("model.").split(".")
    new, dimension = MODULES[module]
    groups = [GROUPS.get(group, group) for group in groups]
    return ".".join([*groups, new, PARTS.get(part, part)]), dimension


def read(source):
    """(name, tensor) of every tensor of a checkpoint."""
    for path in sorted(source.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                yield name, file.get_tensor(name)


def make(source, target, ranks):
    config = json.loads((source / "config.json").read_text())
    layers = config["num_hidden_layers"]
    of_ranks = [{} for _ in range(ranks)]
    for name, tensor in read(source):
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        if layer and int(layer[1]) >= layers:
            continue
        new, dimension = demo_name(name)
        expert = EXPERT.search(name)
        for rank, tensors in enumerate(of_ranks):
            if expert:
                if int(expert[1]) // (config["n_routed_experts"] // ranks) == rank:
                    tensors[new] = tensor
            elif dimension is None:
                tensors[new] = tensor
            else:
                size, rest = divmod(tensor.shape[dimension], ranks)
                if rest:
                    raise SystemExit(f"{name}: {ranks} does not divide {tensor.shape[dimension]}")
                tensors[new] = tensor.narrow(dimension, rank * size, size).contiguous()
    target.mkdir(parents=True)
    for rank, tensors in enumerate(of_ranks):
        save_file(tensors, target / f"model{rank}-mp{ranks}.safetensors")
    for path in source.glob("*token*"):
        shutil.copyfile(path, target / path.name)


if __name__ == "__main__":
    make(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3]))
