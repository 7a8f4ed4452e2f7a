"""Random models of the family that transformers runs in float32, each with its logits.

    forward_models.py DIRECTORY [KIND...]

Writes a checkpoint of every kind, or of these, that the version of transformers, 4 or 5, runs as it should be to
DIRECTORY/KIND, beside it tokens.npy [sequences, tokens] and what transformers makes of them:
logits.npy, hidden.npy, and of a model with an MTP layer mtp_logits.npy. A directory with FP8
weights has fp8.npy and fp8-ue8m0.npy: logits with activations that are quantised as engines do.
"""

import json
import sys
from pathlib import Path

import numpy
import torch
import transformers
from safetensors.torch import load_file, save_file

import models
import tools

COMMON = {
    "vocab_size": 307, "hidden_size": 128, "intermediate_size": 176, "moe_intermediate_size": 56,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4, "n_routed_experts": 16,
    "n_shared_experts": 2, "num_experts_per_tok": 4, "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1,
    "q_lora_rank": 48, "kv_lora_rank": 40, "qk_rope_head_dim": 16, "qk_nope_head_dim": 24, "v_head_dim": 20,
    "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "routed_scaling_factor": 2.5, "tie_word_embeddings": False,
}
YARN = {"type": "yarn", "rope_type": "yarn", "factor": 40, "original_max_position_embeddings": 64, "beta_fast": 32,
        "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}
V2 = {"n_group": 4, "topk_group": 2, "scoring_func": "softmax", "norm_topk_prob": False, "routed_scaling_factor": 16.0}
INDEXER = {"index_n_heads": 16, "index_head_dim": 32, "index_topk": 12}

# The class, the fields, and the versions of transformers that are right. Version 4 masks groups
# with 0, which biases below zero show.
ALL, NEW = (4, 5), (5,)
KINDS = {
    "v3": ("deepseek_v3", {}, NEW),
    "v3-yarn": ("deepseek_v3", {"rope_scaling": YARN}, NEW),
    "v3-yarn-mscale": ("deepseek_v3", {"rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.2}}, NEW),
    "v3-yarn-plain": ("deepseek_v3", {"rope_scaling": {k: v for k, v in YARN.items() if "mscale" not in k}}, NEW),
    "v3-yarn-untruncated": ("deepseek_v3", {"rope_scaling": {**YARN, "truncate": False}}, NEW),
    "v3-biases": ("deepseek_v3", {"attention_bias": True}, NEW),
    "v3-tied": ("deepseek_v3", {"tie_word_embeddings": True}, NEW),
    "v3-halves": ("deepseek_v3", {"rope_interleave": False}, NEW),
    "moonlight": ("deepseek_v3", {"q_lora_rank": None, "n_group": 1, "topk_group": 1}, ALL),
    "kimi": ("deepseek_v3", {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 8,
                             "rope_scaling": {**YARN, "factor": 32, "beta_fast": 1.0}}, ALL),
    "v2-lite": ("deepseek_v2", {**V2, "q_lora_rank": None, "n_group": 1, "topk_group": 1, "topk_method": "greedy",
                                "routed_scaling_factor": 1.0}, ALL),
    "v2": ("deepseek_v2", {**V2, "topk_method": "group_limited_greedy"}, ALL),
    "v2-yarn": ("deepseek_v2", {**V2, "topk_method": "group_limited_greedy",
                                "rope_scaling": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}}, NEW),
    "v32": ("deepseek_v32", INDEXER, NEW),
    "glm": ("glm_moe_dsa", {**INDEXER, "n_group": 1, "topk_group": 1}, NEW),
}


def fill(model):
    """Values that show mistakes: spread routers, biases below zero, norms away from one."""
    generator = torch.Generator().manual_seed(7)

    def random(shape, scale):
        return torch.randn(shape, generator=generator) * scale

    state = {}
    for name, value in sorted(model.state_dict().items()):
        if name.endswith("e_score_correction_bias"):
            state[name] = -torch.rand(value.shape, generator=generator)
        elif "norm" in name:
            state[name] = 1 + random(value.shape, 0.2) if name.endswith("weight") else random(value.shape, 0.2)
        elif value.ndim == 1:
            state[name] = random(value.shape, 0.2)
        else:
            state[name] = random(value.shape, 1.4 / value.shape[-1] ** 0.5).to(torch.bfloat16).float()
    model.load_state_dict(state)


class QuantisedLinear(torch.nn.Module):
    """A linear as engines run it: inputs in E4M3 by groups of 128 columns, weights code * scale."""

    def __init__(self, weight, ue8m0):
        super().__init__()
        self.exact, self.ue8m0 = weight, ue8m0

    def forward(self, x):
        groups = torch.nn.functional.pad(x.double(), (0, -x.shape[-1] % 128)).unflatten(-1, (-1, 128))
        scale = groups.abs().amax(-1, keepdim=True) / tools.FP8_MAX
        scale = torch.where(scale == 0, 1.0, scale).float().double()
        if self.ue8m0:
            scale = torch.exp2(torch.ceil(torch.log2(scale)))
        codes = (groups / scale).float().to(tools.FP8).double()
        return ((codes * scale).flatten(-2)[..., : x.shape[-1]] @ self.exact.T).float()


def run(model, tokens):
    with torch.no_grad():
        return model(tokens, output_hidden_states=True, use_cache=False)


def make(kind, directory):
    model_type, changes, _ = KINDS[kind]
    fields = {**COMMON, **changes}
    config = transformers.AutoConfig.for_model(model_type, **fields)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    fill(model)
    tokens = torch.from_numpy(numpy.random.default_rng(3).integers(0, fields["vocab_size"], (2, 40)))
    out = run(model, tokens)
    directory.mkdir(parents=True)
    model.save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    # save_pretrained leaves out what the checkpoints of the family say.
    change_config(directory, **{name: changes[name] for name in ("scoring_func", "topk_method", "norm_topk_prob")
                                if name in changes})
    numpy.save(directory / "tokens.npy", tokens.numpy())
    numpy.save(directory / "logits.npy", out.logits.numpy())
    # The last one is behind the final norm.
    numpy.save(directory / "hidden.npy", torch.stack(out.hidden_states[:-1]).numpy())
    return model, tokens


def change_config(directory, **changes):
    config = json.loads((directory / "config.json").read_text())
    config.update(changes)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def make_mtp(directory):
    """The last layer of a model as the MTP layer of the others."""
    model, tokens = make("v3-yarn", directory)
    layers = len(model.model.layers) - 1
    last = model.model.layers[layers]
    model.model.layers = model.model.layers[:layers]
    generator = torch.Generator().manual_seed(8)
    hidden = COMMON["hidden_size"]
    extra = {name: 1 + torch.randn(hidden, generator=generator) * 0.2
             for name in ("enorm.weight", "hnorm.weight", "shared_head.norm.weight")}
    extra["eh_proj.weight"] = torch.randn(hidden, 2 * hidden, generator=generator) * 0.08

    def norm(x, weight):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + COMMON["rms_norm_eps"]) * weight

    base = model.model
    base.config.num_hidden_layers = layers
    with torch.no_grad():
        main = base(tokens, use_cache=False).last_hidden_state
        joined = torch.cat([norm(base.embed_tokens(tokens[:, 1:]), extra["enorm.weight"]),
                            norm(main[:, :-1], extra["hnorm.weight"])], -1)
        x = joined @ extra["eh_proj.weight"].T
        positions = torch.arange(x.shape[1])[None]
        mask = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)[None, None]
        x = last(x, attention_mask=mask, position_ids=positions,
                 position_embeddings=base.rotary_emb(x, positions))
        x = x[0] if isinstance(x, tuple) else x
        logits = model.lm_head(norm(x, extra["shared_head.norm.weight"]))
        numpy.save(directory / "logits.npy", model.lm_head(main).numpy())
    (directory / "hidden.npy").unlink()
    numpy.save(directory / "mtp_logits.npy", logits.numpy())
    tensors = load_file(directory / "model.safetensors")
    tensors.update({f"model.layers.{layers}.{name}": value for name, value in extra.items()})
    tensors[f"model.layers.{layers}.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors[f"model.layers.{layers}.shared_head.head.weight"] = tensors["lm_head.weight"].clone()
    save_file(tensors, directory / "model.safetensors")
    change_config(directory, num_hidden_layers=layers, num_nextn_predict_layers=1, mlp_layer_types=None,
                  first_k_dense_replace=COMMON["first_k_dense_replace"])


def make_fp8(directory):
    """FP8 weights: logits with them in BF16, and with activations in FP8, too."""
    model, tokens = make("moonlight", directory)
    tensors = load_file(directory / "model.safetensors")
    state, exact = model.state_dict(), {}
    for name, tensor in list(tensors.items()):
        if not models.QUANTISED.search(name):
            continue
        codes, scale = tools.quantize(tensor.to(torch.bfloat16))
        tensors[name], tensors[f"{name}_scale_inv"] = codes, scale
        state[name].copy_(tools.dequantize(codes, scale).float())
        exact[name] = codes.double() * tools.spread(scale.double(), *codes.shape, (128, 128))
    save_file(tensors, directory / "model.safetensors")
    change_config(directory, quantization_config=tools.FP8_CONFIG)
    out = run(model, tokens)
    numpy.save(directory / "logits.npy", out.logits.numpy())
    numpy.save(directory / "hidden.npy", torch.stack(out.hidden_states[:-1]).numpy())
    for name, ue8m0 in (("fp8", False), ("fp8-ue8m0", True)):
        for weight, values in exact.items():
            model.set_submodule(weight.removesuffix(".weight"), QuantisedLinear(values, ue8m0))
        numpy.save(directory / f"{name}.npy", run(model, tokens).logits.numpy())


def main():
    torch.set_num_threads(1)  # the models are too small for more
    directory = Path(sys.argv[1])
    version = int(transformers.__version__.split(".")[0])
    for kind, (_, _, versions) in KINDS.items():
        if version in versions and (kind in sys.argv[2:] or not sys.argv[2:]):
            make(kind, directory / kind)
    if sys.argv[2:]:
        return
    if version == 4:
        make_fp8(directory / "fp8")
    else:
        make_mtp(directory / "mtp")


if __name__ == "__main__":
    main()
