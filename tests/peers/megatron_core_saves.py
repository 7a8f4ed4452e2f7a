"""GPTModels of megatron-core on the CPU, with the weights of a Hugging Face checkpoint, saved as its training saves them.

Each process is one of four gloo ranks. Which slice of which tensor a rank has is what the library says of its own
modules (`sharded_state_dict`), so that no formula of ours is between the weights and the files."""

import argparse
import os
import warnings

import torch
import torch.distributed as dist

import training_saves

# Of each checkpoint the tensor, pipeline, expert and expert tensor parallel ranks, virtual stages and dtype.
FORMS = {
    "tensor-pipeline": {"tensor": 2, "pipeline": 2},
    "tensor-expert": {"tensor": 2, "pipeline": 2, "expert": 2, "expert_tensor": 1},
    "expert-tensor": {"tensor": 2, "expert": 2, "expert_tensor": 2},
    "virtual": {"pipeline": 2, "expert": 2, "virtual": 2},
    "float32": {"tensor": 2, "pipeline": 2, "dtype": torch.float32},
}
PADDED_ROWS = 128


def reference(tensors, config):
    """The tensors under the names of the whole model, with modules that need no Transformer Engine."""
    named = training_saves.megatron(tensors, config, padded_rows=PADDED_ROWS)
    local = {
        "self_attention.linear_q_up_proj.layer_norm_weight": "self_attention.q_layernorm.weight",
        "self_attention.linear_kv_up_proj.layer_norm_weight": "self_attention.kv_layernorm.weight",
        "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight",
    }
    out = {}
    for name, tensor in named.items():
        for with_engine, without in local.items():
            name = name.replace(with_engine, without)
        out[name] = tensor
    return out


def stand_in_for_a_gpu():
    """What the library asks of CUDA when it makes and saves a model."""
    torch.cuda.current_device = lambda: "cpu"
    torch.cuda.synchronize = lambda *_: None
    torch.Tensor.cuda = lambda self, *_, **__: self

    class Attention(torch.nn.Module):
        """The core of attention has no weights, and that of the library for CPUs takes no latent heads."""

        def __init__(self, *_, **__):
            super().__init__()

    from megatron.core.models.backends import LocalSpecProvider

    LocalSpecProvider.core_attention = lambda self: Attention


def transformer_config(config, form):
    from megatron.core.transformer.transformer_config import MLATransformerConfig

    dense = config["first_k_dense_replace"]
    layers = config["num_hidden_layers"]
    sizes = MLATransformerConfig(
        num_layers=layers,
        hidden_size=config["hidden_size"],
        num_attention_heads=config["num_attention_heads"],
        ffn_hidden_size=config["intermediate_size"],
        moe_ffn_hidden_size=config["moe_intermediate_size"],
        moe_shared_expert_intermediate_size=config["moe_intermediate_size"] * config["n_shared_experts"],
        num_moe_experts=config["n_routed_experts"],
        moe_router_topk=config["num_experts_per_tok"],
        moe_layer_freq=[0] * dense + [1] * (layers - dense),
        moe_router_enable_expert_bias=True,
        moe_router_score_function="sigmoid",
        moe_token_dispatcher_type="allgather",
        q_lora_rank=config["q_lora_rank"],
        kv_lora_rank=config["kv_lora_rank"],
        qk_head_dim=config["qk_nope_head_dim"],
        qk_pos_emb_head_dim=config["qk_rope_head_dim"],
        v_head_dim=config["v_head_dim"],
        mtp_num_layers=config["num_nextn_predict_layers"],
        multi_latent_attention=True,
        qk_layernorm=True,
        normalization="RMSNorm",
        rope_type="rope",
        add_bias_linear=False,
        gated_linear_unit=True,
        bias_activation_fusion=False,
        tensor_model_parallel_size=form.get("tensor", 1),
        pipeline_model_parallel_size=form.get("pipeline", 1),
        virtual_pipeline_model_parallel_size=form.get("virtual"),
        expert_model_parallel_size=form.get("expert", 1),
        expert_tensor_parallel_size=form.get("expert_tensor", form.get("tensor", 1)),
        params_dtype=form.get("dtype", torch.bfloat16),
        pipeline_dtype=form.get("dtype", torch.bfloat16),
        bf16="dtype" not in form,
        use_cpu_initialization=True,
        perform_initialization=False,
        # Wanted with experts, and refused by the norms of CPUs.
        sequence_parallel=form.get("tensor", 1) > 1,
    )
    sizes.sequence_parallel = False
    return sizes


def make_model(config, transformer, stage, dtype):
    from megatron.core import parallel_state
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt import gpt_layer_specs as specs

    where = {"ignore_virtual": False, "vp_stage": stage}
    decoder = specs.get_gpt_decoder_block_spec(
        transformer, use_transformer_engine=False, normalization="RMSNorm", vp_stage=stage
    )
    mtp = specs.get_gpt_mtp_block_spec(transformer, decoder, False, vp_stage=stage)
    model = GPTModel(
        transformer,
        decoder,
        vocab_size=config["vocab_size"] + PADDED_ROWS,
        max_sequence_length=64,
        pre_process=parallel_state.is_pipeline_first_stage(**where),
        post_process=parallel_state.is_pipeline_last_stage(**where),
        share_embeddings_and_output_weights=False,
        position_embedding_type="rope",
        mtp_block_spec=mtp,
        vp_stage=stage,
    ).to(dtype)
    for module in model.modules():
        if getattr(module, "expert_bias", None) is not None:
            module.expert_bias.data = module.expert_bias.data.float()
    return model


def fill(state, tensors):
    """Gives each tensor of a sharded state dict the slice of the whole one that it says it is."""
    from megatron.core.dist_checkpointing import mapping
    from megatron.core.dist_checkpointing.dict_utils import nested_values

    mapping.apply_factories(state)
    for value in nested_values(state):
        if isinstance(value, mapping.ShardedTensor):
            value.data.detach().copy_(tensors[value.key][value.global_slice()].view(value.data.shape))


def save(rank, config, tensors, form, directory):
    from megatron.core import dist_checkpointing, parallel_state

    sizes = transformer_config(config, form)
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=sizes.tensor_model_parallel_size,
        pipeline_model_parallel_size=sizes.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=sizes.virtual_pipeline_model_parallel_size,
        expert_model_parallel_size=sizes.expert_model_parallel_size,
        expert_tensor_parallel_size=sizes.expert_tensor_parallel_size,
    )
    stages = range(form["virtual"]) if "virtual" in form else [None]
    models = [make_model(config, sizes, stage, sizes.params_dtype) for stage in stages]
    keys = ["model"] if len(models) == 1 else [f"model{stage}" for stage in stages]

    sharded = {}
    for key, model in zip(keys, models):
        fill(model.sharded_state_dict(), tensors)
        sharded[key] = model.sharded_state_dict()
    distributed = directory / "torch_dist" / "iter_0000007"
    distributed.mkdir(parents=True, exist_ok=True)
    dist.barrier()
    dist_checkpointing.save(sharded, str(distributed))

    # --ckpt-format torch, as Megatron-LM's save_checkpoint does it.
    folder = f"mp_rank_{parallel_state.get_tensor_model_parallel_rank():02d}"
    if sizes.pipeline_model_parallel_size > 1:
        folder += f"_{parallel_state.get_pipeline_model_parallel_rank():03d}"
    if sizes.expert_model_parallel_size > 1:
        folder += f"_{parallel_state.get_expert_model_parallel_rank():03d}"
    if parallel_state.get_expert_data_parallel_rank() == 0:
        file = directory / "torch" / "iter_0000007" / folder / "model_optim_rng.pt"
        file.parent.mkdir(parents=True)
        plain = (bool, int, float, str, list, torch.dtype, type(None))
        args = {name: value for name, value in vars(sizes).items() if isinstance(value, plain)}
        state = {"args": argparse.Namespace(**args), "checkpoint_version": 3.0, "iteration": 7}
        for key, model in zip(keys, models):
            state[key] = model.state_dict_for_save_checkpoint()
        state["rng_state"] = [{"torch_rng_state": torch.get_rng_state()}]
        torch.save(state, file)
    dist.barrier()
    parallel_state.destroy_model_parallel()


def save_all(rank, ranks, source, directory, port):
    """Saves every form, in directory/FORM/{torch,torch_dist}/iter_0000007."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    stand_in_for_a_gpu()
    config = training_saves.config_of(source)
    tensors = reference(training_saves.load(source), config)
    for name, form in FORMS.items():
        save(rank, config, tensors, form, directory / name)
    dist.destroy_process_group()
