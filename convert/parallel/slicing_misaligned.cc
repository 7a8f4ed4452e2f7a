#include "convert/parallel/slicing_misaligned.h"

#include <algorithm>
#include <numeric>
#include <string>

#include <fmt/format.h>

#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

class Judge {
 public:
  Judge(const Catalog& catalog, const ModelConfig& config, const std::vector<ScaledWeight>& scaled,
        const Topology& topology, const SlicingOptions& options, const std::vector<ScaledCut>& cuts)
      : catalog_(catalog),
        config_(config),
        scaled_(scaled),
        topology_(topology),
        options_(options),
        cuts_(cuts) {}

  MisalignedResult Run() const {
    MisalignedResult result;
    const ScaledCut* first = nullptr;
    for (const ScaledCut& cut : cuts_) {
      if (!IsMisaligned(cut, cut.ways)) continue;
      if (first == nullptr) first = &cut;
      if (cut.coded && options_.on_misaligned != OnMisaligned::kReplicateModule) {
        RefuseCodes(cut);
      }
      result.units.insert(cut.place.unit);
    }
    if (first == nullptr) return result;
    if (options_.on_misaligned == OnMisaligned::kError) Refuse(*first, result.units.size());
    if (options_.on_misaligned == OnMisaligned::kSubblock) {
      const std::string obstacle = WhyNoSubblock();
      if (!obstacle.empty()) {
        throw Error(ErrorCode::kUsage,
                    fmt::format("--on-misaligned subblock: {}; use --on-misaligned "
                                "replicate-module or bf16",
                                obstacle));
      }
      result.recut_block = Subblock();
    }
    return result;
  }

 private:
  bool IsMisaligned(const ScaledCut& cut, std::uint64_t ways) const {
    if (ways == 1) return false;
    if (cut.spanned && !options_.deepseek) return false;
    return cut.size / ways % cut.block != 0;
  }

  // gcd of the block and of all offsets at which FP8 weights are cut, in each dimension.
  quant::BlockShape Subblock() const {
    quant::BlockShape block = *config_.quantization->weight_block_size;
    for (const ScaledCut& cut : cuts_) {
      if (cut.coded) continue;
      std::uint64_t& side = cut.place.axis == SliceAxis::kRows ? block.rows : block.cols;
      side = std::gcd(side, cut.part());
    }
    return block;
  }

  // Why the scales cannot be cut finer; empty when they can.
  std::string WhyNoSubblock() const {
    const auto& quantization = config_.quantization;
    if (!quantization || quantization->quant_method != "fp8" || !quantization->weight_block_size) {
      return "the scales are not those of blocks that config.json states as weight_block_size";
    }
    for (const ScaledWeight& weight : scaled_) {
      const CatalogTensor& tensor = catalog_.tensors()[weight.weight];
      if (tensor.shape.size() == 2) continue;
      return fmt::format("{} holds all experts of a layer", QuoteForMessage(tensor.name));
    }
    return "";
  }

  // Groups and packed words stay whole, whatever the options say.
  [[noreturn]] void RefuseCodes(const ScaledCut& cut) const {
    const CatalogTensor& tensor = catalog_.tensors()[cut.tensor];
    const std::string file = catalog_.files()[tensor.extent.file].DisplayName();
    throw Error(ErrorCode::kUsage,
                fmt::format("{}; {}--on-misaligned replicate-module (each of these ranks holds the "
                            "module whole)",
                            Boundary(cut), AdviceOnSizes(cut)),
                {file, tensor.name});
  }

  // "model.safetensors: tensor '…': 4 ranks divide …, falls inside a block …"
  std::string Boundary(const ScaledCut& cut) const {
    const CatalogTensor& tensor = catalog_.tensors()[cut.tensor];
    const std::string file = catalog_.files()[tensor.extent.file].DisplayName();
    const char* const line = cut.place.axis == SliceAxis::kRows ? "row" : "column";
    return fmt::format(
        "{}: tensor {}: {} ranks divide its {} {}s, and the first boundary, {} {}, falls inside a "
        "block of {} {}s that share {}",
        formats::ShownPath(file), QuoteForMessage(tensor.name), cut.ways, cut.size, line, line,
        cut.part(), cut.block, line, cut.shared);
  }

  [[noreturn]] void Refuse(const ScaledCut& cut, std::size_t units) const {
    const CatalogTensor& tensor = catalog_.tensors()[cut.tensor];
    const std::string file = catalog_.files()[tensor.extent.file].DisplayName();
    std::string message = Boundary(cut);
    if (units > 1)
      message += fmt::format(" (as in {} more module{})", units - 1, units == 2 ? "" : "s");
    message += "; ";
    if (options_.deepseek) {
      message += fmt::format("use --tp {}, or --format hf-rank", LargestThatFits(cut, true));
    } else {
      message += AdviceOnSizes(cut) + AdviceOnModes();
    }
    throw Error(ErrorCode::kUsage, message, {file, tensor.name});
  }

  // The largest number below the cut's ways, and dividing it, at which all weights of its kind (or
  // of any kind) are aligned.
  std::uint64_t LargestThatFits(const ScaledCut& misaligned, bool any_kind) const {
    for (std::uint64_t ways = misaligned.ways / 2; ways > 1; --ways) {
      if (misaligned.ways % ways != 0) continue;
      const bool fits = std::none_of(cuts_.begin(), cuts_.end(), [&](const ScaledCut& cut) {
        return (any_kind || cut.place.kind == misaligned.place.kind) && IsMisaligned(cut, ways);
      });
      if (fits) return ways;
    }
    return 1;
  }

  std::string AdviceOnSizes(const ScaledCut& cut) const {
    const std::uint64_t ways = LargestThatFits(cut, false);
    switch (cut.place.kind) {
      case ModuleKind::kAttention:
        return fmt::format("use --tp {}, or ", ways);
      case ModuleKind::kDenseMlp:
        return fmt::format("use --dense-tp {}, or ", ways);
      case ModuleKind::kSharedExpert:
        return fmt::format("use --shared-expert-tp {}, or ", ways);
      case ModuleKind::kEmbedding:
      case ModuleKind::kHead:
        return fmt::format("use --embed-tp {}, or ", ways);
      case ModuleKind::kRoutedExpert:
        // Ranks of a stage = ep · ways.
        if (topology_.physical_experts % (topology_.ranks_per_stage() / ways) != 0) break;
        return fmt::format("use --ep {}, or ", topology_.ranks_per_stage() / ways);
      case ModuleKind::kOther:
        break;
    }
    return "use ";
  }

  std::string AdviceOnModes() const {
    std::string subblock;
    if (WhyNoSubblock().empty()) {
      const quant::BlockShape block = Subblock();
      subblock = fmt::format(", subblock (weight_block_size [{}, {}] for all weights)", block.rows,
                             block.cols);
    }
    return fmt::format(
        "--on-misaligned replicate-module (each of these ranks holds the module whole){} or bf16 "
        "(the module becomes BF16)",
        subblock);
  }

  const Catalog& catalog_;
  const ModelConfig& config_;
  const std::vector<ScaledWeight>& scaled_;
  const Topology& topology_;
  const SlicingOptions& options_;
  const std::vector<ScaledCut>& cuts_;
};

}  // namespace

MisalignedResult JudgeMisaligned(const Catalog& catalog, const ModelConfig& config,
                                 const std::vector<ScaledWeight>& scaled, const Topology& topology,
                                 const SlicingOptions& options,
                                 const std::vector<ScaledCut>& cuts) {
  return Judge(catalog, config, scaled, topology, options, cuts).Run();
}

}  // namespace dsv3::convert
