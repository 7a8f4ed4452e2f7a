"""Writes the .metadata of a Megatron-Core torch_dist checkpoint of DeepSeek-V3 (671B).

    python3 tests/bench/dcp_metadata.py FILE [--optimizer 3] [--plans]

One chunk for each expert's half of linear_fc1 and linear_fc2 of 58 layers, as many once more for each
optimizer state that is asked for, and the other weights in 8 chunks each: 129,000 chunks by default.
--plans adds what Megatron keeps beside them, the plan of every rank, which holds each chunk again.
Needs no torch: the classes here have its names, so that Python's own pickle writes the same opcodes.
dsv3-dcp-metadata-bench FILE then measures how long the parser takes.
"""

import argparse
import dataclasses
import enum
import pathlib
import pickle
import sys
import types
import typing

LAYERS, DENSE, EXPERTS, PARTS = 61, 3, 256, 8


def module(name):
    """A module of this name, which pickle finds when it checks the classes that it writes."""
    made = types.ModuleType(name)
    sys.modules[name] = made
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules.get(parent) or module(parent), child, made)
    return made


def placed(where):
    """Gives a class or a function to a module."""
    def place(thing):
        thing.__module__ = where.__name__
        thing.__qualname__ = thing.__name__
        setattr(where, thing.__name__, thing)
        return thing
    return place


torch = module("torch")
serialization = module("torch.serialization")
metadata = module("torch.distributed.checkpoint.metadata")
filesystem = module("torch.distributed.checkpoint.filesystem")
planner = module("torch.distributed.checkpoint.planner")
Any = typing.Any


@placed(torch)
class Size(tuple):
    def __reduce__(self):
        return Size, (tuple(self),)


class Dtype:
    """Written as torch writes a dtype: by its name in the module."""

    def __reduce__(self):
        return "bfloat16"


Dtype.__module__ = "torch"
torch.bfloat16 = Dtype()


@placed(serialization)
def _get_layout(name):
    return Layout()


class Layout:
    def __reduce__(self):
        return _get_layout, ("torch.strided",)


@placed(metadata)
class _MEM_FORMAT_ENCODING(enum.Enum):
    TORCH_CONTIGUOUS_FORMAT = 0


@placed(metadata)
class TensorProperties:
    def __getstate__(self):
        return (torch.bfloat16, Layout(), False, _MEM_FORMAT_ENCODING.TORCH_CONTIGUOUS_FORMAT, False)


def record(where, name, *fields):
    return placed(where)(dataclasses.make_dataclass(name, [(field, Any) for field in fields],
                                                    unsafe_hash=name == "MetadataIndex"))


ChunkStorageMetadata = record(metadata, "ChunkStorageMetadata", "offsets", "sizes")
TensorStorageMetadata = record(metadata, "TensorStorageMetadata", "properties", "size", "chunks")
MetadataIndex = record(metadata, "MetadataIndex", "fqn", "offset", "index")
Metadata = record(metadata, "Metadata", "state_dict_metadata", "planner_data", "storage_data",
                  "storage_meta", "version", "all_local_plans")
_StorageInfo = record(filesystem, "_StorageInfo", "relative_path", "offset", "length")
TensorWriteData = record(planner, "TensorWriteData", "chunk", "properties", "size")
WriteItem = record(planner, "WriteItem", "index", "type", "bytes_io_data", "tensor_data")
SavePlan = record(planner, "SavePlan", "items", "storage_data", "planner_data")


@placed(planner)
class WriteItemType(enum.Enum):
    SHARD = 2


def copied(text):
    """An equal text of its own, as the ranks' answers hold: pickle writes it again."""
    return "".join(list(text))


def shapes():
    """Each tensor's name, shape, and the sizes of its chunks."""
    cut = lambda *shape: (shape, (shape[0] // PARTS, *shape[1:]))
    yield "embedding.word_embeddings.weight", *cut(129280, 7168)
    yield "output_layer.weight", *cut(129280, 7168)
    for layer in range(LAYERS):
        at = f"decoder.layers.{layer}."
        yield at + "self_attention.linear_q_down_proj.weight", *cut(1536, 7168)
        yield at + "self_attention.linear_q_up_proj.weight", *cut(24576, 1536)
        yield at + "self_attention.linear_kv_down_proj.weight", *cut(576, 7168)
        yield at + "self_attention.linear_kv_up_proj.weight", *cut(32768, 512)
        yield at + "self_attention.linear_proj.weight", *cut(7168, 16384)
        yield at + "input_layernorm.weight", (7168,), (7168,)
        if layer < DENSE:
            yield at + "mlp.linear_fc1.weight", *cut(36864, 7168)
            yield at + "mlp.linear_fc2.weight", *cut(7168, 18432)
            continue
        yield at + "mlp.router.weight", (EXPERTS, 7168), (EXPERTS, 7168)
        yield at + "mlp.experts.experts.linear_fc1.weight", (EXPERTS, 4096, 7168), (1, 4096, 7168)
        yield at + "mlp.experts.experts.linear_fc2.weight", (EXPERTS, 7168, 2048), (1, 7168, 2048)


def make(optimizer, plans):
    tensors, storage, items, ranks = {}, {}, [], 2048
    names = ["", *(f"optimizer.state.{state}." for state in ("param", "exp_avg", "exp_avg_sq"))]
    for prefix in names[:1 + optimizer]:
        for name, shape, sizes in shapes():
            fqn, chunks = prefix + name, []
            for index in range(shape[0] // sizes[0]):
                offsets = (index * sizes[0],) + (0,) * (len(shape) - 1)
                chunks.append(ChunkStorageMetadata(Size(offsets), Size(sizes)))
                number = len(storage)
                key = MetadataIndex(copied(fqn), Size(offsets), index)
                storage[key] = _StorageInfo(f"__{number % ranks}_0.distcp",
                                            number // ranks * 29364224, 29364224)
                if plans:
                    chunk = ChunkStorageMetadata(Size(offsets), Size(sizes))
                    data = TensorWriteData(chunk, TensorProperties(), Size(shape))
                    items.append(WriteItem(key, WriteItemType.SHARD, None, data))
            tensors[fqn] = TensorStorageMetadata(TensorProperties(), Size(shape), chunks)
    step = max(1, len(items) // ranks)
    local = [SavePlan(items[i:i + step], None, None) for i in range(0, len(items), step)]
    return Metadata(tensors, None, storage, None, "1.0.0", local), len(storage)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--optimizer", type=int, default=3, choices=range(4))
    parser.add_argument("--plans", action="store_true")
    options = parser.parse_args()
    made, chunks = make(options.optimizer, options.plans)
    with open(options.file, "wb") as file:
        pickle.dump(made, file, protocol=4)
    print(f"{chunks} chunks, {options.file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
