#include "convert/verify/numeric_judge.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "convert/catalog/name_pattern.h"
#include "convert/model/scale_names.h"
#include "convert/model/scaled_weights.h"
#include "convert/open/gguf_model.h"
#include "convert/plan/row_tensors.h"
#include "convert/stream/value_reader.h"
#include "convert/verify/numeric_outliers.h"
#include "convert/verify/numeric_zeros.h"
#include "formats/dtype_kind.h"
#include "formats/error.h"
#include "formats/io/aligned_buffer.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

using formats::Dtype;
using formats::Severity;

constexpr std::string_view kDamaged =
    "the file is damaged, or the program that wrote it had a fault: fetch or convert it again";

std::string Times(std::uint64_t count, std::string_view one, std::string_view many) {
  return fmt::format("{} {}", count, count == 1 ? one : many);
}

class Judge {
 public:
  Judge(const ValueCheckpoint& checkpoint, const std::vector<Measurement>& measurements,
        SourceFiles& sources)
      : checkpoint_(checkpoint),
        catalog_(checkpoint.model.catalog),
        measurements_(measurements),
        sources_(sources),
        scales_(checkpoint.scaled.pairs, catalog_.tensors().size()),
        zeros_(checkpoint, measurements) {}

  formats::Findings Run(const std::vector<MtpCopy>& copies) {
    for (std::uint32_t i = 0; i < measurements_.size(); ++i) JudgeAlone(i);
    for (const MtpCopy& copy : copies) JudgeCopy(copy);
    JudgeMagnitudes();
    std::stable_sort(found_.begin(), found_.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    formats::Findings findings;
    for (auto& [tensor, finding] : found_) findings.push_back(std::move(finding));
    JudgeScaleFmt(findings);
    return findings;
  }

 private:
  void JudgeAlone(std::uint32_t i) {
    const CatalogTensor& tensor = catalog_.tensors()[i];
    const Measurement& m = measurements_[i];
    if (m.values == 0) return;
    // Codes that are not decoded are not values, but a file that was never written shows in them,
    // too.
    if (checkpoint_.undecoded[i]) return JudgeZeros(i);
    if (m.bad_scales.count != 0) {
      Add(i, Severity::kError, "bad-scale",
          fmt::format(
              "{} {}, the first is {} at {}, expected finite positive numbers; {}",
              Times(m.bad_scales.count, "scale of", "scales of"),
              fmt::format("{} {} bad", m.values, m.bad_scales.count == 1 ? "is" : "are"),
              HoldsE8M0(i) ? "the NaN code 0xFF" : fmt::format("{}", m.bad_scales.first_value),
              PlaceOfScale(i, m.bad_scales.first), kDamaged));
    }
    if (m.nans != 0) {
      Add(i, Severity::kError, "nan",
          fmt::format("{}, the first at {}; {}",
                      Times(m.nans, NanName(tensor.dtype, false), NanName(tensor.dtype, true)),
                      PlaceOf(i, m.first_nan), kDamaged));
    }
    if (m.infinities != 0) {
      Add(i, Severity::kError, "infinity",
          fmt::format("{}, the first at {}; {}",
                      Times(m.infinities, "value is infinite", "values are infinite"),
                      PlaceOf(i, m.first_infinity), kDamaged));
    }
    JudgeCodes(i);
    JudgeZeros(i);
    if (!IsScale(i) && m.finite == m.values && m.absmax != 0 && m.constant && m.values > 1 &&
        !formats::IsInteger(tensor.dtype)) {
      Add(i, Severity::kWarning, "constant",
          fmt::format("all {} values are {}; if the model was trained, the tensor was never "
                      "written: compare it with where it came from",
                      m.values, m.first));
    }
  }

  // In the tensor as it is stored. Those of weights that are kept by columns were read by rows.
  std::string PlaceOfScale(std::uint32_t i, std::uint64_t element) const {
    const formats::Shape& shape = catalog_.tensors()[i].shape;
    const ScaledWeight* const pair = scales_.OfScale(i);
    if (pair == nullptr || !IsByColumns(catalog_, *pair)) return ElementPlace(shape, element);
    const std::uint64_t row = element / pair->ScaleCols();
    return ElementPlace(shape, element % pair->ScaleCols() * pair->ScaleRows() + row);
  }

  // Of an element; of GGUF files also where it is in the file.
  std::string PlaceOf(std::uint32_t i, std::uint64_t element) const {
    const std::string place = ElementPlace(catalog_.tensors()[i].shape, element);
    const GgufModel* const gguf = checkpoint_.model.gguf.get();
    return gguf == nullptr ? place : fmt::format("{}: {}", place, GgufPlaceOf(*gguf, i, element));
  }

  void JudgeCodes(std::uint32_t i) {
    const CodesOutOfRange& codes = measurements_[i].codes;
    const ScaledWeight* const pair = scales_.OfWeight(i);
    if (pair == nullptr || !pair->range) return;
    const CodeRange& range = *pair->range;
    const std::uint64_t scales = pair->matrices * pair->ScaleRows() * pair->ScaleCols();
    if (!IsFault(codes, range, scales)) return;
    Add(i, Severity::kError, "code-out-of-range",
        fmt::format("{}, the first is {} at {}, expected {} to {}; {}",
                    Times(codes.count, "code is outside its form's range",
                          "codes are outside their form's range"),
                    codes.first_value,
                    ElementPlace({pair->matrices * pair->rows, pair->cols}, codes.first),
                    range.least, range.greatest, kDamaged));
  }

  void JudgeZeros(std::uint32_t i) {
    if (const std::optional<ZeroFinding> found = zeros_.Of(i)) {
      Add(i, found->severity, found->kind, found->message);
    }
  }

  // Also one whose weight is not there.
  bool IsScale(std::uint32_t i) const {
    return scales_.OfScale(i) != nullptr || ParseScaleName(catalog_.tensors()[i].name);
  }

  // As such, or as U8.
  bool HoldsE8M0(std::uint32_t i) const {
    const ScaledWeight* const pair = scales_.OfScale(i);
    return catalog_.tensors()[i].dtype == Dtype::kF8E8M0 ||
           (pair != nullptr && pair->scale == i && pair->scale_format == quant::ScaleFormat::kE8M0);
  }

  static std::string_view NanName(Dtype dtype, bool many) {
    if (dtype == Dtype::kF8E4M3) {
      return many ? "FP8 NaN codes (0x7F or 0xFF)" : "FP8 NaN code (0x7F or 0xFF)";
    }
    if (dtype == Dtype::kF8E5M2) return many ? "FP8 NaN codes" : "FP8 NaN code";
    if (dtype == Dtype::kF8E8M0) return many ? "E8M0 NaN codes (0xFF)" : "E8M0 NaN code (0xFF)";
    return many ? "values are NaN" : "value is NaN";
  }

  void JudgeCopy(const MtpCopy& copy) {
    const CatalogTensor& a = catalog_.tensors()[copy.copy];
    const CatalogTensor& b = catalog_.tensors()[copy.main];
    const std::vector<std::string>& digests_a = measurements_[copy.copy].digests;
    const std::vector<std::string>& digests_b = measurements_[copy.main].digests;
    std::string how;
    if (a.dtype != b.dtype || a.shape != b.shape) {
      how = fmt::format("it is {} {} instead of {} {}", formats::DtypeName(a.dtype),
                        formats::ShapeToString(a.shape), formats::DtypeName(b.dtype),
                        formats::ShapeToString(b.shape));
    } else {
      const auto [at_a, at_b] =
          std::mismatch(digests_a.begin(), digests_a.end(), digests_b.begin(), digests_b.end());
      if (at_a == digests_a.end()) return;
      how = FirstDifference(copy, static_cast<std::uint64_t>(at_a - digests_a.begin()));
    }
    Add(copy.copy, Severity::kError, "mtp-copy-differs",
        fmt::format("expected a copy of {}, but {}; take both tensors from one release",
                    QuoteForMessage(b.name), how));
  }

  // Reads the panel in which the two differ.
  std::string FirstDifference(const MtpCopy& copy, std::uint64_t panel) {
    const ValueReader reader(catalog_, copy.copy, nullptr);
    const std::uint64_t size = PanelElements(reader.elements());
    const std::uint64_t begin = panel * size;
    const std::uint64_t end = std::min(reader.elements(), begin + size);
    const SourceRange ranges[] = {{copy.copy, reader.BytesTo(begin), reader.BytesTo(end)},
                                  {copy.main, reader.BytesTo(begin), reader.BytesTo(end)}};
    formats::AlignedBuffer buffer;
    std::vector<std::span<const std::byte>> inputs;
    sources_.Read(ranges, buffer, inputs);
    const auto [at, unused] = std::mismatch(inputs[0].begin(), inputs[0].end(), inputs[1].begin());
    const auto byte = static_cast<std::uint64_t>(at - inputs[0].begin());
    return fmt::format(
        "the bytes differ from {} on",
        ElementPlace(catalog_.tensors()[copy.copy].shape, begin + reader.ElementAt(byte)));
  }

  void JudgeMagnitudes() {
    std::vector<TensorMagnitude> magnitudes;
    for (std::uint32_t i = 0; i < measurements_.size(); ++i) {
      const CatalogTensor& tensor = catalog_.tensors()[i];
      const Measurement& m = measurements_[i];
      // Values without their scale cannot be compared.
      if (scales_.OfScale(i) != nullptr || checkpoint_.undecoded[i] ||
          (IsFp8(tensor.dtype) && scales_.OfWeight(i) == nullptr) ||
          (formats::IsInteger(tensor.dtype) && scales_.OfWeight(i) == nullptr) || !(m.rms > 0) ||
          !std::isfinite(m.rms)) {
        continue;
      }
      magnitudes.push_back({i, NamePattern(tensor.name), m.rms, m.absmax});
    }
    for (const Outlier& outlier : FindOutliers(std::move(magnitudes))) {
      Add(outlier.tensor, Severity::kWarning, "outlier",
          fmt::format("{} is {:.4g}, but the median of the {} tensors {} is {:.4g}; a wrong scale, "
                      "or a damaged tensor: compare it with where it came from",
                      outlier.by_rms ? "RMS" : "absmax", outlier.value, outlier.group_size,
                      QuoteForMessage(outlier.pattern), outlier.median));
    }
  }

  void JudgeScaleFmt(formats::Findings& findings) {
    // scale_fmt says nothing of weights in other forms.
    std::vector<bool> other_form(catalog_.tensors().size());
    for (const ScaledWeight& pair : checkpoint_.scaled.readable) other_form[pair.weight] = true;
    std::vector<ScaledWeight> pairs;
    std::vector<ScaleSignificands> significands;
    for (const ScaledWeight& pair : checkpoint_.scaled.pairs) {
      if (other_form[pair.weight]) continue;
      pairs.push_back(pair);
      significands.push_back(measurements_[pair.scale].significands);
    }
    auto finding = CheckScaleFmt(catalog_, checkpoint_.model.config, pairs, significands);
    if (finding) findings.push_back(std::move(*finding));
  }

  void Add(std::uint32_t tensor, Severity severity, std::string_view kind, std::string_view what) {
    const CatalogTensor& t = catalog_.tensors()[tensor];
    const std::string& file = catalog_.files()[t.extent.file].name;
    formats::Finding finding;
    finding.severity = severity;
    finding.kind = kind;
    finding.file = file;
    finding.tensor = t.name;
    finding.message =
        fmt::format("{}: tensor {}: {}", formats::ShownPath(file), QuoteForMessage(t.name), what);
    found_.emplace_back(tensor, std::move(finding));
  }

  const ValueCheckpoint& checkpoint_;
  const Catalog& catalog_;
  const std::vector<Measurement>& measurements_;
  SourceFiles& sources_;
  const ScaleMap scales_;
  const ZeroJudge zeros_;
  std::vector<std::pair<std::uint32_t, formats::Finding>> found_;  // by the tensor's position
};

}  // namespace

std::string ElementPlace(const formats::Shape& shape, std::uint64_t element) {
  if (shape.size() != 2 || shape[1] == 0) return fmt::format("[{}]", element);
  return fmt::format("[{}, {}]", element / shape[1], element % shape[1]);
}

std::vector<MtpCopy> FindMtpCopies(const Catalog& catalog, const ModelConfig& config) {
  constexpr std::string_view kLayers = "layers.";
  std::vector<MtpCopy> copies;
  for (std::uint32_t i = 0; i < catalog.tensors().size(); ++i) {
    const std::string_view name = catalog.tensors()[i].name;
    const bool embedding = name.ends_with(".embed_tokens.weight");
    if (!embedding && !name.ends_with(".shared_head.head.weight")) continue;
    const std::size_t layers = name.rfind(kLayers);
    if (layers == std::string_view::npos) continue;
    // "model." or "language_model.model.", and what is before that.
    const std::string model(name.substr(0, layers));
    const std::string outer = model.ends_with("model.") ? model.substr(0, model.size() - 6) : model;
    std::uint32_t main = embedding ? Catalog::kNone : catalog.Find(outer + "lm_head.weight");
    if (main == Catalog::kNone && (embedding || config.tie_word_embeddings)) {
      main = catalog.Find(model + "embed_tokens.weight");
    }
    if (main != Catalog::kNone) copies.push_back({i, main});
  }
  return copies;
}

formats::Findings JudgeValues(const ValueCheckpoint& checkpoint,
                              const std::vector<Measurement>& measurements,
                              const std::vector<MtpCopy>& copies, SourceFiles& sources) {
  return Judge(checkpoint, measurements, sources).Run(copies);
}

}  // namespace dsv3::convert
