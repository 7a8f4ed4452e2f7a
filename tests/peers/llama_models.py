"""Random models that llama.cpp runs, each with the logits of transformers 5 in float32.

    llama_models.py DIRECTORY

Writes a checkpoint of every kind to DIRECTORY/KIND, beside it tokens.npy [sequences, tokens] and logits.npy.
"""

import json
import re
import sys
from pathlib import Path

import numpy
import torch
import transformers
from safetensors.torch import load_file, save_file

import forward_models

OTHERS = ("v3", "v3-tied", "v3-yarn", "v3-yarn-mscale", "v3-yarn-plain", "v3-yarn-untruncated", "kimi", "moonlight", "v2-lite")
# llama.cpp rotates what its indexer compares, 64 dimensions at least.
INDEXER = {**forward_models.INDEXER, "index_head_dim": 64}
YARN_OF_V2 = {**forward_models.YARN, "mscale": 0.707, "mscale_all_dim": 0.707}
V2 = {**forward_models.V2, "rope_scaling": YARN_OF_V2}
OWN = {
    "v2": ("deepseek_v2", {**V2, "n_group": 1, "topk_group": 1, "topk_method": "greedy"}, (5,)),
    "v2-groups": ("deepseek_v2", {**V2, "topk_method": "group_limited_greedy"}, (5,)),
    "v32": ("deepseek_v32", INDEXER, (5,)),
    "glm": ("glm_moe_dsa", {**INDEXER, "n_group": 1, "topk_group": 1}, (5,)),
}
# As config.json of the releases has it, not as transformers saves it.
V4 = {
    "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "vocab_size": 307, "hidden_size": 128,
    "moe_intermediate_size": 64, "num_hidden_layers": 5, "num_nextn_predict_layers": 0, "num_hash_layers": 3,
    "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 128, "qk_rope_head_dim": 32, "q_lora_rank": 64,
    "o_groups": 4, "o_lora_rank": 32, "n_routed_experts": 16, "n_shared_experts": 1, "num_experts_per_tok": 2,
    "norm_topk_prob": True, "routed_scaling_factor": 1.5, "scoring_func": "sqrtsoftplus", "topk_method": "noaux_tc",
    "compress_ratios": [0, 0, 4, 128, 4], "compress_rope_theta": 160000, "sliding_window": 16, "index_head_dim": 64,
    "index_n_heads": 4, "hc_eps": 1e-6, "hc_mult": 4, "hc_sinkhorn_iters": 20, "swiglu_limit": 10.0,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000, "max_position_embeddings": 1024,
    "rope_scaling": {"type": "yarn", "factor": 16, "original_max_position_embeddings": 64, "beta_fast": 32,
                     "beta_slow": 1},
    "attention_bias": False, "attention_dropout": 0.0, "tie_word_embeddings": False, "initializer_range": 0.02,
    "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "float32",
}


def name_of_release(name):
    """transformers saves some tensors of V4 under names between its own and those of the releases."""
    name = name.removeprefix("model.").replace("embed_tokens", "embed").replace("hc_head.hc_", "hc_head_")
    return re.sub(r"attn\.norm", "attn.kv_norm", name)


def make_v4(directory, index_topk, count):
    """With `index_topk` of the compressed keys, logits of `count` tokens."""
    fields = {**V4, "index_topk": index_topk}
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(fields, indent=2) + "\n")
    config = transformers.AutoConfig.from_pretrained(directory)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    forward_models.fill(model)
    generator = torch.Generator().manual_seed(9)
    for name, table in model.state_dict().items():
        if "tid2eid" in name:
            rows = [torch.randperm(V4["n_routed_experts"], generator=generator)[: table.shape[1]] for _ in table]
            table.copy_(torch.stack(rows))
    tokens = torch.from_numpy(numpy.random.default_rng(3).integers(0, V4["vocab_size"], (1, count)))
    logits = forward_models.run(model, tokens).logits
    model.save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps(fields, indent=2) + "\n")
    path = directory / "model.safetensors"
    save_file({name_of_release(name): tensor for name, tensor in load_file(path).items()}, path)
    numpy.save(directory / "tokens.npy", tokens.numpy())
    numpy.save(directory / "logits.npy", logits.numpy())


def main():
    torch.set_num_threads(1)  # the models are too small for more
    directory = Path(sys.argv[1])
    forward_models.KINDS.update(OWN)
    for kind in (*OTHERS, *OWN):
        forward_models.make(kind, directory / kind)
    make_v4(directory / "v4", index_topk=64, count=160)
    # Where scores of the indexer are close, float32 decides; these are not.
    make_v4(directory / "v4-indexer", index_topk=4, count=28)


if __name__ == "__main__":
    main()
