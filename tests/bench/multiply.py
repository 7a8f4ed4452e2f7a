"""A larger checkpoint out of a small one: every shard several times, under other tensor names.

Used where the small sample is too short for the fixed costs of a run not to show.
"""

import json
import shutil
import struct


def renamed(name, copy):
    return f"copies.{copy}.{name}"


def multiply(source, target, copies):
    target.mkdir(parents=True)
    weight_map, total = {}, 0
    for shard in sorted(source.glob("*.safetensors")):
        with open(shard, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
            for copy in range(copies):
                new = {key if key == "__metadata__" else renamed(key, copy): value
                       for key, value in header.items()}
                text = json.dumps(new, separators=(",", ":")).encode()
                text += b" " * (-len(text) % 8)
                name = f"copy-{copy}-{shard.name}"
                file.seek(8 + length)
                with open(target / name, "wb") as out:
                    out.write(struct.pack("<Q", len(text)) + text)
                    shutil.copyfileobj(file, out, 16 << 20)
                for key, value in new.items():
                    if key != "__metadata__":
                        weight_map[key] = name
                        total += value["data_offsets"][1] - value["data_offsets"][0]
    config = json.loads((source / "config.json").read_text())
    # Not a model of which the tools know the tensors.
    config["model_type"] = "copies"
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (target / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
