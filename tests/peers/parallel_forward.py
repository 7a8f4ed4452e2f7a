"""A model of transformers whose products are made by ranks, each from its own files, in float64."""

import torch
from transformers import DeepseekV3ForCausalLM

import tools


def exact(tensors, block):
    """Weights without scales, as float64: FP8 is float64(code) * float64(scale)."""
    result = {}
    for name, tensor in tensors.items():
        if name.endswith("_scale_inv"):
            continue
        value = tensor.double()
        if tensor.dtype == tools.FP8:
            value *= tools.spread(tensors[f"{name}_scale_inv"].double(), *tensor.shape, block)
        result[name] = value
    return result


class ParallelLinear(torch.nn.Module):
    """Parts of a weight: outputs of row parts stand side by side, products of column parts are added."""

    def __init__(self, parts, whole):
        super().__init__()
        self.parts, self.whole = parts, whole

    def forward(self, x):
        rows, columns = self.whole
        if all(part.shape == self.whole for part in self.parts):
            return x @ self.parts[0].T
        if self.parts[0].shape[1] == columns:
            return torch.cat([x @ part.T for part in self.parts], -1)[..., :rows]
        begin, total = 0, 0
        for part in self.parts:
            total = total + x[..., begin : begin + part.shape[1]] @ part.T
            begin += part.shape[1]
        if begin != columns:
            raise AssertionError(f"the ranks hold {begin} of {columns} columns")
        return total


class ParallelEmbedding(torch.nn.Module):
    """Each rank looks up its own rows and gives zeros for all others."""

    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def forward(self, tokens):
        begin, total = 0, 0
        for part in self.parts:
            own = (tokens >= begin) & (tokens < begin + part.shape[0])
            rows = part[(tokens - begin).clamp(0, part.shape[0] - 1)]
            total = total + rows * own[..., None]
            begin += part.shape[0]
        return total


def build(config, tensors):
    """The model with these float64 tensors."""
    model = DeepseekV3ForCausalLM(config).double().eval()
    model.load_state_dict(tensors)
    for name, module in model.named_modules():
        if name.endswith(".mlp.gate"):
            # Its weights of experts are float32, and what they are added to takes their dtype.
            module.register_forward_hook(lambda _, inputs, chosen: (chosen[0], chosen[1].double()))
    return model


def share_out(model, ranks, tp):
    """Replaces every product of `model` by products of the ranks' float64 tensors.

    `ranks` are the tensors of each rank. A routed expert is computed where it lies; all else by the first `tp` ranks.
    """
    for name, module in list(model.named_modules()):
        key = f"{name}.weight"
        if isinstance(module, torch.nn.Linear):
            holders = [rank for rank in ranks if key in rank]
            if ".experts." in name:
                # Replicas hold the same; parts of one expert are on neighbouring ranks.
                whole = module.weight.numel()
                holders = holders[: whole // holders[0][key].numel()]
            else:
                holders = holders[:tp]
            new = ParallelLinear([rank[key] for rank in holders], module.weight.shape)
        elif isinstance(module, torch.nn.Embedding):
            new = ParallelEmbedding([rank[key] for rank in ranks[:tp]])
        else:
            continue
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, new)
    # Norms and routers are on every rank.
    for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
        if name in ranks[0]:
            parameter.data = ranks[-1][name]
    return model


def logits(model, vocabulary):
    tokens = torch.arange(48).view(2, 24) * 7 % vocabulary
    with torch.no_grad():
        return model(tokens).logits
