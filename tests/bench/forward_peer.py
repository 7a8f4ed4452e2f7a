"""transformers beside dsv3-verify forward, with two threads; prints one JSON object.

    forward_peer.py prefill MODEL TOKENS RUNS [LOGITS.npy]
    forward_peer.py generate MODEL TOKENS COUNT

`prefill` loads MODEL in float32 and runs the token ids of TOKENS, a .npy file, RUNS times. `generate` loads it in
bfloat16 and makes COUNT greedy tokens, one after the other. Loading counts apart.
"""

import json
import sys
import time

import numpy
import torch
import transformers

THREADS = 2
WARM_UP = 3  # tokens


def load(model, dtype):
    return transformers.AutoModelForCausalLM.from_pretrained(model, dtype=dtype, local_files_only=True).eval()


def prefill(model, tokens, runs, logits=None):
    model, seconds = load(model, torch.float32), []
    for _ in range(int(runs)):
        start = time.perf_counter()
        out = model(tokens, use_cache=False).logits
        seconds.append(time.perf_counter() - start)
    if logits is not None:
        numpy.save(logits, out[0].numpy())
    return {"seconds": seconds}


def generate(model, tokens, count):
    model = load(model, torch.bfloat16)
    made, seconds = [], []
    out = model(tokens, use_cache=True)
    for _ in range(WARM_UP + int(count)):
        made.append(int(out.logits[0, -1].argmax()))
        start = time.perf_counter()
        out = model(torch.tensor([made[-1:]]), past_key_values=out.past_key_values, use_cache=True)
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds[WARM_UP:]}


def main():
    mode, model, tokens, *rest = sys.argv[1:]
    torch.set_num_threads(THREADS)
    ids = torch.from_numpy(numpy.load(tokens).astype(numpy.int64))
    with torch.no_grad():
        result = {"prefill": prefill, "generate": generate}[mode](model, ids, *rest)
    print(json.dumps({"version": transformers.__version__, **result}))


if __name__ == "__main__":
    main()
