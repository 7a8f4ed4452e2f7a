"""Logarithmic probabilities that llama.cpp computes of a GGUF file, in float32 throughout.

    llama_logits.py FILE TOKENS OUT [FIELD=NUMBER...]

TOKENS is a numpy file with token ids [tokens]; OUT becomes one with float64 [tokens, vocabulary]: what may follow the
first, the first two, and so on. FIELD is one of xllamacpp's CommonParams.
"""

import sys

import numpy
import xllamacpp

FORCED = 40  # a token with a character: where the next one is part of one, llama.cpp reports no probabilities


def main():
    file, tokens, out, *fields = sys.argv[1:]
    tokens = numpy.load(tokens).tolist()
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx = params.n_batch = params.n_ubatch = 256
    params.n_parallel = params.cpuparams.n_threads = 1
    params.n_gpu_layers = 0
    params.warmup = params.fit_params = False
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    for field in fields:
        name, value = field.split("=")
        setattr(params, name, float(value))
    server = xllamacpp.Server(params)
    rows = []
    for end in range(1, len(tokens) + 1):
        request = {"prompt": tokens[:end], "n_predict": 1, "n_probs": 1 << 20, "cache_prompt": False,
                   "temperature": 0, "logit_bias": [[FORCED, 1000.0]]}
        answer = server.handle_completions(request)
        found = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        row = numpy.full(len(found), numpy.nan)
        for each in found:
            row[each["id"]] = each["logprob"]
        rows.append(row)
    numpy.save(out, numpy.stack(rows))


main()
