"""Tiny DeepSeek-V3 checkpoints made with transformers and quantised with torch."""

import contextlib
import json
import logging
import re
import warnings

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, DeepseekV3Config, DeepseekV3ForCausalLM
from transformers.utils import logging as transformers_logging

import tools

transformers_logging.disable_default_handler()
transformers_logging.disable_progress_bar()

# What the published checkpoints quantise: every projection except the router.
QUANTISED = re.compile(r"\.(?:q_\w+|kv_\w+|o|gate|up|down)_proj(?:_with_mqa)?\.weight$")


def config(**changes):
    """A small model with the ragged 576-row projection and ragged widths throughout."""
    fields = {
        "vocab_size": 320,
        "hidden_size": 256,
        "intermediate_size": 352,
        "moe_intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_group": 4,
        "topk_group": 2,
        "first_k_dense_replace": 1,
        "q_lora_rank": 200,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 32,
        "v_head_dim": 48,
        "max_position_embeddings": 256,
        "torch_dtype": "bfloat16",
    }
    return DeepseekV3Config(**{**fields, **changes})


def build(directory, model_config, seed, max_shard_size="1MB"):
    """Saves a random BF16 model with transformers; returns shard name → tensors."""
    torch.manual_seed(seed)
    model = DeepseekV3ForCausalLM(model_config).to(torch.bfloat16)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.data = -torch.rand(buffer.shape, dtype=torch.float32)
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    return {path.name: load_file(path) for path in sorted(directory.glob("*.safetensors"))}


def quantise(shards, scale_shard=lambda name, shard: shard):
    """Quantises the projections. Returns the FP8 shards and the BF16 shards expected back.

    `scale_shard` picks, for a weight's name and shard, the shard that holds its scale.
    """
    fp8 = {shard: {} for shard in shards}
    bf16 = {shard: {} for shard in shards}
    for shard, tensors in shards.items():
        for name, tensor in tensors.items():
            if not QUANTISED.search(name):
                fp8[shard][name] = bf16[shard][name] = tensor
                continue
            codes, scale = tools.quantize(tensor)
            fp8[shard][name] = codes
            fp8.setdefault(scale_shard(name, shard), {})[f"{name}_scale_inv"] = scale
            bf16[shard][name] = tools.dequantize(codes, scale)
    return fp8, bf16


def fp8_config(directory):
    """The config that transformers wrote, as a published FP8 checkpoint has it."""
    fields = json.loads((directory / "config.json").read_text())
    fields["quantization_config"] = tools.FP8_CONFIG
    return fields


class _Collect(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


@contextlib.contextmanager
def _collected_warnings():
    """Turns Python warnings into errors and collects what transformers logs as a warning."""
    collect = _Collect()
    logger = logging.getLogger("transformers")
    logger.addHandler(collect)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield collect.messages
    finally:
        logger.removeHandler(collect)


def logits(directory, vocabulary, unused=None):
    """Loads a checkpoint as a user does, without a warning, and runs it on fixed tokens.

    `unused` is the prefix of the tensors that transformers may call unused: the MTP layer, which
    this class of transformers does not build.
    """
    with _collected_warnings() as messages:
        model, info = AutoModelForCausalLM.from_pretrained(
            directory, dtype="auto", output_loading_info=True)
    unexpected = [name for name in info["unexpected_keys"] if not unused or not name.startswith(unused)]
    if unused:
        messages = [m for m in messages if not m.startswith("Some weights of the model checkpoint")]
    problems = [*messages, *unexpected, *info["missing_keys"], *info["mismatched_keys"]]
    if problems:
        raise AssertionError(f"transformers, loading {directory}: {problems}")
    if model.dtype != torch.bfloat16:
        raise AssertionError(f"transformers loaded the model as {model.dtype}")
    tokens = torch.arange(48).view(2, 24) * 7 % vocabulary
    with torch.no_grad():
        return model.eval()(tokens).logits
