"""What the comparisons of GGUF files share: models with a tokenizer that llama.cpp takes, and a file's content."""

import json

import tools

GLM_TOKENS = ("[gMASK]", "<|user|>", "<|endoftext|>", "<|observation|>")


def sample(directory, preset):
    tools.run("dsv3-convert", "sample", directory, "--preset", preset, "--quiet")
    give_merge(directory)


def give_merge(directory):
    """A merge, without which llama.cpp takes no tokenizer."""
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    model = tokenizer["model"]
    model["vocab"]["ab"] = len(model["vocab"])
    model["merges"] = ["a b"]
    path.write_text(json.dumps(tokenizer))


def give_glm_tokens(directory):
    """The tokens of GLM that llama.cpp's converter asks for."""
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    for number, token in enumerate(GLM_TOKENS, len(tokenizer["model"]["vocab"])):
        tokenizer["added_tokens"].append(
            {"id": number, "content": token, "special": True, "normalized": False}
            | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        )
    path.write_text(json.dumps(tokenizer))


def read(gguf, path):
    """Tensors by name as (type, shape, bytes), and keys as (types, values); `gguf` is the module of gguf-py."""
    reader = gguf.GGUFReader(path)
    tensors = {each.name: (each.tensor_type, tuple(each.shape), each.data.tobytes()) for each in reader.tensors}
    keys = {
        name: (field.types, field.contents())
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
    return tensors, keys
