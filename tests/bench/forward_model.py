"""Writes a random model that transformers and dsv3-verify run: forward_model.py DIRECTORY

619 million weights in BF16: hidden size 1024, 8 layers, 32 experts of 704, 4 of them for each token.
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import save_file

CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "torch_dtype": "bfloat16",
    "vocab_size": 32768, "hidden_size": 1024, "intermediate_size": 2816, "moe_intermediate_size": 704,
    "num_hidden_layers": 8, "num_attention_heads": 12, "num_key_value_heads": 12, "n_routed_experts": 32,
    "n_shared_experts": 1, "num_experts_per_tok": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "moe_layer_freq": 1, "q_lora_rank": 512, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128,
    "v_head_dim": 128, "num_nextn_predict_layers": 0, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "rope_scaling": None, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
    "topk_method": "noaux_tc", "norm_topk_prob": True, "hidden_act": "silu", "attention_bias": False,
    "attention_dropout": 0.0, "tie_word_embeddings": False, "initializer_range": 0.02, "use_cache": True,
    "bos_token_id": 0, "eos_token_id": 1,
}


def shapes(config):
    """The shape of every tensor, by name."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    nope, rope, value = (config[name] for name in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
    queries, latents = config["q_lora_rank"], config["kv_lora_rank"]
    result = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,),
              "lm_head.weight": (config["vocab_size"], hidden)}

    def mlp(name, width):
        result[f"{name}.gate_proj.weight"] = result[f"{name}.up_proj.weight"] = (width, hidden)
        result[f"{name}.down_proj.weight"] = (hidden, width)

    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        result.update({
            f"{name}.input_layernorm.weight": (hidden,), f"{name}.post_attention_layernorm.weight": (hidden,),
            f"{name}.self_attn.q_a_proj.weight": (queries, hidden), f"{name}.self_attn.q_a_layernorm.weight": (queries,),
            f"{name}.self_attn.q_b_proj.weight": (heads * (nope + rope), queries),
            f"{name}.self_attn.kv_a_proj_with_mqa.weight": (latents + rope, hidden),
            f"{name}.self_attn.kv_a_layernorm.weight": (latents,),
            f"{name}.self_attn.kv_b_proj.weight": (heads * (nope + value), latents),
            f"{name}.self_attn.o_proj.weight": (hidden, heads * value),
        })
        if layer < config["first_k_dense_replace"]:
            mlp(f"{name}.mlp", config["intermediate_size"])
            continue
        experts, width = config["n_routed_experts"], config["moe_intermediate_size"]
        result[f"{name}.mlp.gate.weight"] = (experts, hidden)
        result[f"{name}.mlp.gate.e_score_correction_bias"] = (experts,)
        for expert in range(experts):
            mlp(f"{name}.mlp.experts.{expert}", width)
        mlp(f"{name}.mlp.shared_experts", config["n_shared_experts"] * width)
    return result


def values(name, shape, generator):
    if name.endswith("e_score_correction_bias"):
        return torch.rand(shape, generator=generator) / 10
    if "norm" in name:
        return (1 + torch.randn(shape, generator=generator) * 0.1).to(torch.bfloat16)
    return (torch.randn(shape, generator=generator) / shape[-1] ** 0.5).to(torch.bfloat16)


def main():
    directory = pathlib.Path(sys.argv[1])
    generator = torch.Generator().manual_seed(1)
    tensors = {name: values(name, shape, generator) for name, shape in shapes(CONFIG).items()}
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    # Last: where it lies the checkpoint is whole.
    (directory / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")


if __name__ == "__main__":
    main()
