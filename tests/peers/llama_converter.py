"""Runs llama.cpp's converter of Hugging Face checkpoints, many times in one process, for its imports take seconds.

    llama_converter.py SOURCE TIKTOKEN < RUNS

SOURCE is a directory of llama.cpp's source, RUNS a JSON list with an object for each run: "pre", the name of the
pre-tokenizer, which the converter knows of published tokenizers alone, and "arguments". Ends with 1 after the first
run that fails. Prints the merges that the converter derives of the file TIKTOKEN, a line each.
"""

import base64
import json
import os
import sys


def convert(converter, pre, arguments):
    from conversion import base, deepseek

    # transformers 4 has add_bos_token, which V3.2's wants to be set, of Llama's tokenizers alone.
    deepseek.DeepseekV32Model.set_vocab = base.TextModel._set_vocab_gpt2
    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
    sys.argv = ["convert_hf_to_gguf.py", *arguments]
    converter.main()


def print_merges(file):
    from conversion.qwen import QwenModel

    ranks = {}
    with open(file) as lines:
        for line in lines:
            token, rank = line.split()
            ranks[base64.b64decode(token)] = int(rank)
    for token, rank in ranks.items():
        parts = QwenModel.bpe(ranks, token, max_rank=rank)
        if len(token) > 1 and len(parts) == 2:
            print(" ".join(map(QwenModel.token_bytes_to_string, parts)))


def main():
    source, tiktoken = sys.argv[1:]
    sys.path[:0] = [source, source + "/gguf-py"]
    import convert_hf_to_gguf as converter
    from transformers import AutoTokenizer  # noqa: F401 - what the converter imports in each run

    print_merges(tiktoken)
    sys.stdout.flush()
    for run in json.load(sys.stdin):
        # A process for each: the converter keeps options in its classes.
        child = os.fork()
        if child == 0:
            convert(converter, run["pre"], run["arguments"])
            sys.stderr.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status != 0:
            print("llama_converter: failed:", *run["arguments"], file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
