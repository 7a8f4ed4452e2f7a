"""DeepSeek-V4 as transformers 5 saves it.

    v4_saves.py DIRECTORY [CHECKPOINT]

Writes a random model in BF16, with the parameters that transformers keeps in F32, to DIRECTORY/saved,
and under the names of its modules to DIRECTORY/modules. With CHECKPOINT, loads that one as well and
fails where a weight of it differs, is missing or is not expected.
"""

import sys
from pathlib import Path

import torch
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

LAYERS = ("sliding_attention", "heavily_compressed_attention", "compressed_sparse_attention",
          "heavily_compressed_attention", "compressed_sparse_attention")


def make(directory):
    torch.manual_seed(1)
    config = DeepseekV4Config(
        vocab_size=128, hidden_size=64, moe_intermediate_size=32, num_hidden_layers=len(LAYERS),
        num_attention_heads=4, head_dim=32, q_lora_rank=32, num_experts_per_tok=2, n_routed_experts=4,
        num_nextn_predict_layers=1, layer_types=list(LAYERS), o_groups=2, o_lora_rank=16, index_n_heads=2,
        index_head_dim=16, index_topk=8, sliding_window=8, partial_rotary_factor=0.5)
    model = DeepseekV4ForCausalLM(config)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape) * 0.1)
            elif name.endswith("tid2eid"):
                value.copy_(torch.randint(0, config.n_routed_experts, value.shape))
    model.save_pretrained(directory / "float")
    # Loaded so, it keeps in F32 what it must.
    model = DeepseekV4ForCausalLM.from_pretrained(directory / "float", dtype=torch.bfloat16)
    model.save_pretrained(directory / "saved")
    model.save_pretrained(directory / "modules", save_original_format=False)


def compare(directory, checkpoint):
    expected = DeepseekV4ForCausalLM.from_pretrained(directory / "saved").state_dict()
    model, loading = DeepseekV4ForCausalLM.from_pretrained(checkpoint, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not loading[kind], (kind, loading[kind])
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def main():
    directory = Path(sys.argv[1])
    if len(sys.argv) > 2:
        compare(directory, sys.argv[2])
    else:
        make(directory)


main()
