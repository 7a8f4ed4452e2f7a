#include "convert/forward/run_outputs.h"

namespace dsv3::convert {

RunOutputs::RunOutputs(formats::FileSystem& fs, const ForwardRequest& request,
                       const ModelConfig& config, ModelWeights& weights, std::uint64_t tokens,
                       std::uint64_t mtp_tokens)
    : logits(fs, request.logits, {tokens, config.vocab_size}),
      hidden(fs, request.hidden, {config.num_hidden_layers + 1, tokens, config.hidden_size}),
      mtp_logits(fs, request.mtp_logits, {mtp_tokens, config.vocab_size}) {
  if (request.trace.empty() && request.against.empty()) return;
  const std::vector<ModuleOutput> modules = ListModuleOutputs(
      config, request.attention, tokens, request.mtp_logits.empty() ? 0 : mtp_tokens);
  if (!request.trace.empty()) trace.emplace(fs, request.trace, modules, request.modules);
  if (!request.against.empty()) against.emplace(weights, request.against, modules);
}

std::vector<ModuleOutputs*> RunOutputs::OfModules() {
  std::vector<ModuleOutputs*> outputs;
  if (trace) outputs.push_back(&*trace);
  if (against) outputs.push_back(&*against);
  return outputs;
}

void RunOutputs::Commit() {
  logits.Commit();
  hidden.Commit();
  mtp_logits.Commit();
  if (trace) trace->Commit();
}

}  // namespace dsv3::convert
