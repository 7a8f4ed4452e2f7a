"""Checkpoints that eight ranks can share, blocks of 128 included, and what a rank holds of them by torch."""

import json
import re

import torch

import models
import tools

HEADS = 16
VOCABULARY_PADDING = 64


def config(**changes):
    """Every boundary of up to eight ranks lies between two blocks of 128."""
    fields = {
        "vocab_size": 1024,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "moe_intermediate_size": 1024,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "n_routed_experts": 8,
        "q_lora_rank": 128,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128,
        "v_head_dim": 128,
        "num_nextn_predict_layers": 0,
    }
    return models.config(**{**fields, **changes})


def write(directory, model_config, seed, fp8=True, change=lambda tensors: None):
    """A checkpoint as transformers saves one, in several shards; a scale may lie in another shard than its weight.

    `change` adds or takes tensors of the BF16 model. Returns all tensors as they are stored.
    """
    plain = directory.with_name(directory.name + "-plain")
    shards = models.build(plain, model_config, seed, max_shard_size="8MB")
    change(shards[min(shards)])
    stored = shards
    fields = json.loads((plain / "config.json").read_text())
    if fp8:
        names = sorted(shards)
        stored, _ = models.quantise(
            shards, lambda name, shard: names[-1] if "o_proj" in name else shard)
        for tensors in stored.values():
            for name in [n for n in tensors if re.search(r"\.indexer\.(wq_b|wk)\.weight$", n)]:
                tensors[name], tensors[f"{name}_scale_inv"] = tools.quantize(tensors[name])
        fields["quantization_config"] = tools.FP8_CONFIG
    tools.write_checkpoint(directory, stored, fields)
    (directory / "tokenizer.json").write_text('{"version": "1.0"}\n')
    (directory / "tokenizer_config.json").write_text('{"model_max_length": 256}\n')
    return {name: tensor for tensors in stored.values() for name, tensor in tensors.items()}


def add_indexer(tensors):
    """V3.2's indexer in every layer."""
    layers = {int(m[1]) for m in (re.match(r"model\.layers\.(\d+)\.", n) for n in tensors) if m}
    for layer in sorted(layers):
        prefix = f"model.layers.{layer}.self_attn.indexer."
        tensors[prefix + "wq_b.weight"] = torch.randn(512, 128).to(torch.bfloat16)
        tensors[prefix + "wk.weight"] = torch.randn(128, 256).to(torch.bfloat16)
        tensors[prefix + "k_norm.weight"] = torch.ones(128, dtype=torch.bfloat16)
        tensors[prefix + "k_norm.bias"] = torch.zeros(128, dtype=torch.bfloat16)
        tensors[prefix + "weights_proj.weight"] = torch.randn(4, 256).to(torch.bfloat16)


class Deployment:
    """What each rank of a deployment without pipeline stages holds, in torch's words."""

    def __init__(self, fields, tp, ep, dp=None, experts_of=None):
        self.fields = fields
        self.tp, self.ep = tp, ep
        self.dp = dp or max(1, ep // tp)
        self.size = tp * self.dp
        self.moe_tp = self.size // ep
        share = fields["n_routed_experts"] // ep
        self.experts_of = experts_of or (lambda rank: range(rank * share, (rank + 1) * share))

    def local(self, tensors, rank):
        """Name → what the rank holds of it."""
        held = {name: self.cut(name, tensor, rank) for name, tensor in tensors.items()}
        return {name: tensor for name, tensor in held.items() if tensor is not None}

    def cut(self, name, tensor, rank):
        module, _ = name.rsplit(".", 1)
        leaf = module.rsplit(".", 1)[-1]
        dim = 1 if leaf in ("o_proj", "down_proj") else 0
        expert = re.search(r"\.experts\.(\d+)\.", name)
        if expert:
            if int(expert[1]) not in self.experts_of(rank // self.moe_tp):
                return None
            return share(tensor, dim, self.moe_tp, rank % self.moe_tp)
        if leaf in ("embed_tokens", "lm_head"):
            missing = -tensor.shape[0] % VOCABULARY_PADDING
            padding = torch.zeros((missing, tensor.shape[1]), dtype=tensor.dtype)
            return share(torch.cat([tensor, padding]), 0, self.tp, rank % self.tp)
        if leaf in ("q_proj", "q_b_proj", "kv_b_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
            return share(tensor, dim, self.tp, rank % self.tp)
        return tensor


def share(tensor, dim, ways, part):
    size, rest = divmod(tensor.shape[dim], ways)
    if rest:
        raise AssertionError(f"{ways} does not divide {tuple(tensor.shape)}")
    return tensor.narrow(dim, part * size, size)
