"""Checkpoints as training stacks write them, by torch itself, of the tensors of a Hugging Face checkpoint."""

import argparse
import itertools
import json
import shutil

import torch
from safetensors import safe_open


def load(directory):
    """Name → tensor of a Hugging Face checkpoint."""
    index = directory / "model.safetensors.index.json"
    if index.exists():
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        files = ["model.safetensors"]
    tensors = {}
    for name in files:
        with safe_open(directory / name, "pt") as file:
            tensors.update({key: file.get_tensor(key) for key in file.keys()})
    return tensors


def config_of(directory):
    return json.loads((directory / "config.json").read_text())


def copy_config(source, target):
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "config.json", target / "config.json")


def megatron(tensors, config, padded_rows=0):
    """The names and forms of Megatron-Core with Transformer Engine, in one process."""
    layers = config["num_hidden_layers"]
    experts = config["n_routed_experts"]
    out = {}

    def pad(tensor):
        return torch.cat([tensor, torch.full_like(tensor[:1], 7).expand(padded_rows, -1)])

    def block(source, target, moe):
        def get(name):
            return tensors[f"{source}{name}"]

        attention = {
            "input_layernorm": "input_layernorm",
            "self_attn.q_a_proj": "self_attention.linear_q_down_proj",
            "self_attn.kv_a_proj_with_mqa": "self_attention.linear_kv_down_proj",
            "self_attn.q_b_proj": "self_attention.linear_q_up_proj",
            "self_attn.kv_b_proj": "self_attention.linear_kv_up_proj",
            "self_attn.o_proj": "self_attention.linear_proj",
        }
        for theirs, ours in attention.items():
            out[f"{target}{ours}.weight"] = get(f"{theirs}.weight")
        up = f"{target}self_attention.linear_"
        out[f"{up}q_up_proj.layer_norm_weight"] = get("self_attn.q_a_layernorm.weight")
        out[f"{up}kv_up_proj.layer_norm_weight"] = get("self_attn.kv_a_layernorm.weight")

        def gate_up(prefix):
            return torch.cat([get(f"{prefix}gate_proj.weight"), get(f"{prefix}up_proj.weight")])

        norm = get("post_attention_layernorm.weight")
        if not moe:
            out[f"{target}mlp.linear_fc1.layer_norm_weight"] = norm
            out[f"{target}mlp.linear_fc1.weight"] = gate_up("mlp.")
            out[f"{target}mlp.linear_fc2.weight"] = get("mlp.down_proj.weight")
            return
        out[f"{target}pre_mlp_layernorm.weight"] = norm
        out[f"{target}mlp.router.weight"] = get("mlp.gate.weight")
        out[f"{target}mlp.router.expert_bias"] = get("mlp.gate.e_score_correction_bias")
        out[f"{target}mlp.shared_experts.linear_fc1.weight"] = gate_up("mlp.shared_experts.")
        out[f"{target}mlp.shared_experts.linear_fc2.weight"] = get(
            "mlp.shared_experts.down_proj.weight"
        )
        out[f"{target}mlp.experts.experts.linear_fc1.weight"] = torch.stack(
            [gate_up(f"mlp.experts.{i}.") for i in range(experts)]
        )
        out[f"{target}mlp.experts.experts.linear_fc2.weight"] = torch.stack(
            [get(f"mlp.experts.{i}.down_proj.weight") for i in range(experts)]
        )

    out["embedding.word_embeddings.weight"] = pad(tensors["model.embed_tokens.weight"])
    out["output_layer.weight"] = pad(tensors["lm_head.weight"])
    out["decoder.final_layernorm.weight"] = tensors["model.norm.weight"]
    for layer in range(layers):
        moe = layer >= config["first_k_dense_replace"]
        block(f"model.layers.{layer}.", f"decoder.layers.{layer}.", moe)
    for k in range(config["num_nextn_predict_layers"]):
        source, target = f"model.layers.{layers + k}.", f"mtp.layers.{k}."
        if f"{source}enorm.weight" not in tensors:
            continue
        block(source, f"{target}transformer_layer.", True)
        for name in ("enorm", "hnorm", "eh_proj"):
            out[f"{target}{name}.weight"] = tensors[f"{source}{name}.weight"]
        out[f"{target}final_layernorm.weight"] = tensors[f"{source}shared_head.norm.weight"]
    return out


def megatron_rank_files(directory, state, config, tensor=1, pipeline=1, expert=1, expert_tensor=1):
    """Writes `state`, which `megatron` made, as Megatron's ranks do with `--ckpt-format torch`, Transformer Engine's
    grouped experts and rows of the down projections on each tensor parallel rank (up to 0.13)."""
    experts = config["n_routed_experts"] // expert
    layers = config["num_hidden_layers"] // pipeline
    rows = ("word_embeddings.", "output_layer.", "_proj.weight")  # beside o_proj's columns

    def cut(name, value, rank, ranks):
        if "linear_fc1.weight" in name:
            return torch.cat([half.chunk(ranks)[rank] for half in value.chunk(2)])
        if "linear_fc2." in name or "linear_proj." in name:
            return value.chunk(ranks, 1)[rank].clone()
        return value.chunk(ranks)[rank].clone() if any(text in name for text in rows) else value

    def model_of(t, p, e):
        model = {}
        for name, value in state.items():
            if name.startswith("decoder.layers."):
                number, rest = name.removeprefix("decoder.layers.").split(".", 1)
                if int(number) // layers != p:
                    continue
                name = f"decoder.layers.{int(number) % layers}.{rest}"
            elif name.startswith("embedding."):
                if p not in (0, pipeline - 1):
                    continue
            elif p != pipeline - 1:
                continue
            if ".mlp.experts.experts." in name:
                live = name.replace(".experts.experts.", ".experts.")
                for number in range(experts):
                    one = cut(name, value[e * experts + number], t % expert_tensor, expert_tensor)
                    model[f"{live}{number}"] = one
            else:
                model[name] = cut(name, value, t, tensor)
                model[name.rsplit(".", 1)[0] + "._extra_state"] = None
        return model

    arguments = argparse.Namespace(
        tensor_model_parallel_size=tensor,
        pipeline_model_parallel_size=pipeline,
        virtual_pipeline_model_parallel_size=None,
        expert_model_parallel_size=expert,
        expert_tensor_parallel_size=expert_tensor,
    )
    for t, p, e in itertools.product(range(tensor), range(pipeline), range(expert)):
        # Of several processes with the same experts the first one alone saves.
        if expert_tensor < tensor and t % expert != e:
            continue
        folder = f"mp_rank_{t:02}" + (f"_{p:03}" if pipeline > 1 else "")
        folder = directory / (folder + (f"_{e:03}" if expert > 1 else ""))
        folder.mkdir(parents=True)
        saved = {"args": arguments, "checkpoint_version": 3.0, "iteration": 7, "model": model_of(t, p, e)}
        saved["optimizer"] = {"state": {0: {"exp_avg": torch.zeros(3)}}}
        torch.save(saved, folder / "model_optim_rng.pt")


def torchtitan(tensors, config):
    """The names and forms of torchtitan's deepseek_v3."""
    layers = config["num_hidden_layers"]
    experts = config["n_routed_experts"]
    out = {
        "tok_embeddings.weight": tensors["model.embed_tokens.weight"],
        "norm.weight": tensors["model.norm.weight"],
        "lm_head.weight": tensors["lm_head.weight"],
    }
    names = {
        "self_attn.q_a_proj": "attention.wq_a",
        "self_attn.q_a_layernorm": "attention.q_norm",
        "self_attn.q_b_proj": "attention.wq_b",
        "self_attn.kv_a_proj_with_mqa": "attention.wkv_a",
        "self_attn.kv_a_layernorm": "attention.kv_norm",
        "self_attn.kv_b_proj": "attention.wkv_b",
        "self_attn.o_proj": "attention.wo",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    mlp = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}

    def block(source, target, moe):
        for theirs, ours in names.items():
            out[f"{target}{ours}.weight"] = tensors[f"{source}{theirs}.weight"]
        if not moe:
            for theirs, ours in mlp.items():
                out[f"{target}feed_forward.{ours}.weight"] = tensors[f"{source}mlp.{theirs}.weight"]
            return
        out[f"{target}moe.router.gate.weight"] = tensors[f"{source}mlp.gate.weight"]
        out[f"{target}moe.expert_bias_E"] = tensors[f"{source}mlp.gate.e_score_correction_bias"]
        for theirs, ours in mlp.items():
            shared = tensors[f"{source}mlp.shared_experts.{theirs}.weight"]
            out[f"{target}moe.shared_experts.{ours}.weight"] = shared
            suffix = "EDF" if ours == "w2" else "EFD"
            out[f"{target}moe.routed_experts.inner_experts.{ours}_{suffix}"] = torch.stack(
                [tensors[f"{source}mlp.experts.{i}.{theirs}.weight"] for i in range(experts)]
            )

    for layer in range(layers):
        moe = layer >= config["first_k_dense_replace"]
        block(f"model.layers.{layer}.", f"layers.{layer}.", moe)
    for k in range(config["num_nextn_predict_layers"]):
        source, target = f"model.layers.{layers + k}.", f"mtp_layers.{k}."
        if f"{source}enorm.weight" not in tensors:
            continue
        block(source, target, True)
        for name in ("enorm", "hnorm", "eh_proj"):
            out[f"{target}{name}.weight"] = tensors[f"{source}{name}.weight"]
        out[f"{target}mtp_norm.weight"] = tensors[f"{source}shared_head.norm.weight"]
    return out
