#include "convert/verify/compare.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "convert/catalog/name_pattern.h"
#include "convert/model/expected_tensors.h"
#include "convert/open/base_tensors.h"
#include "convert/open/gguf_model.h"
#include "convert/plan/row_tensors.h"
#include "convert/stream/derived_checks.h"
#include "convert/stream/source_files.h"
#include "convert/verify/compare_pairs.h"
#include "convert/verify/compare_values.h"
#include "convert/verify/gguf_key_differences.h"
#include "convert/verify/gguf_left_out.h"
#include "convert/verify/value_checkpoint.h"
#include "formats/dtype.h"
#include "formats/error.h"
#include "formats/message_text.h"

namespace dsv3::convert {
namespace {

using formats::Finding;

void RequireTolerance(double value, std::string_view option) {
  if (std::isfinite(value) && value >= 0) return;
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: {} cannot be a tolerance; give a finite number that is not negative",
                          option, value));
}

// Opens one of the two and leaves faults out. GGUF files have no name before the model's own: they
// take the other's, such as "language_model.".
ValueCheckpoint OpenSide(const std::filesystem::path& path, const OpenOptions& options) {
  ValueCheckpoint checkpoint = OpenForValues(path, options);
  // Tensors that one of the two lacks are differences.
  for (Finding& finding : checkpoint.files) {
    if (finding.kind == "missing-tensor") finding.severity = formats::Severity::kWarning;
  }
  RequireWhole(checkpoint);
  return checkpoint;
}

void TakePrefixOf(const ValueCheckpoint& other, const std::filesystem::path& path,
                  OpenOptions options, ValueCheckpoint& gguf) {
  if (!gguf.model.gguf || other.model.gguf) return;
  options.name_prefix = FindNamePrefix(other.model.catalog);
  if (!options.name_prefix.empty()) gguf = OpenSide(path, options);
}

// The tensors, by position in both, that the other side may be without, see FindLeftOutOfGguf.
std::vector<bool> FindLeftOut(const OpenedModel& a, const OpenedModel& b) {
  std::vector<bool> of_a(a.catalog.tensors().size(), false);
  std::vector<bool> of_b(b.catalog.tensors().size(), false);
  if (b.gguf && !a.gguf) of_a = FindLeftOutOfGguf(a, b);
  if (a.gguf && !b.gguf) of_b = FindLeftOutOfGguf(b, a);
  of_a.insert(of_a.end(), of_b.begin(), of_b.end());
  return of_a;
}

// What the keys of a GGUF file say otherwise than the config of the other side.
void AddKeyDifferences(const OpenedModel& a, const OpenedModel& b, formats::Findings& findings) {
  if ((a.gguf != nullptr) == (b.gguf != nullptr)) return;
  if (auto finding = a.gguf ? CompareGgufKeys(b, a) : CompareGgufKeys(a, b)) {
    findings.push_back(*std::move(finding));
  }
}

// `derived` refers to what `a` and `b` opened, and so must not outlive them.
TwoCheckpoints Join(ValueCheckpoint& a, ValueCheckpoint& b, std::vector<DerivedTensors>& derived) {
  derived = TensorsOf(a.model).derived;
  for (DerivedTensors tensors : TensorsOf(b.model).derived) {
    tensors.first += static_cast<std::uint32_t>(a.model.catalog.tensors().size());
    derived.push_back(tensors);
  }
  TwoCheckpoints both{std::move(a.model.catalog), std::move(a.scaled.pairs)};
  both.catalog.Append(std::move(b.model.catalog), "b");
  for (ScaledWeight pair : b.scaled.pairs) {
    pair.weight += both.catalog.tensors_end();
    pair.scale += both.catalog.tensors_end();
    if (pair.tensor_scale != Catalog::kNone) pair.tensor_scale += both.catalog.tensors_end();
    if (pair.zeros != Catalog::kNone) pair.zeros += both.catalog.tensors_end();
    both.scaled.push_back(pair);
  }
  return both;
}

// Codes are not values: they are the same or not, whatever the tolerance.
void JudgeAsCodes(ComparedTensor& tensor) {
  DifferenceStatistics& s = tensor.statistics;
  if (s.differing == 0) return;
  tensor.comparison = Comparison::kDifferent;
  s.beyond_tolerance = s.differing;
  s.max_abs = s.max_relative = s.rmse = s.relative = std::numeric_limits<double>::infinity();
}

// The dtypes of tensors as their files say them, by position in both.
struct StoredTypes {
  const GgufModel* gguf_a = nullptr;
  const GgufModel* gguf_b = nullptr;
  std::uint32_t first_of_b = 0;

  std::string NameOf(const Catalog& catalog, std::uint32_t position) const {
    const bool in_a = position < first_of_b;
    const GgufModel* const gguf = in_a ? gguf_a : gguf_b;
    if (gguf == nullptr) return std::string(DtypeNameOf(catalog, position));
    return GgufTypesOf(*gguf, in_a ? position : position - first_of_b);
  }
  // Whether the values are not the bytes: blocks, or floats that were widened.
  bool AreMade(const Catalog& catalog, std::uint32_t position) const {
    return NameOf(catalog, position) != DtypeNameOf(catalog, position);
  }

 private:
  static std::string_view DtypeNameOf(const Catalog& catalog, std::uint32_t position) {
    return formats::DtypeName(catalog.tensors()[position].dtype);
  }
};

ComparedTensor Describe(const Catalog& catalog, const StoredTypes& types, const TensorPair& pair,
                        const PairResult& result) {
  ComparedTensor tensor;
  tensor.comparison = result.comparison;
  tensor.statistics = result.statistics;
  if (pair.a != Catalog::kNone) {
    const CatalogTensor& a = catalog.tensors()[pair.a];
    tensor.name = a.name;
    tensor.file_a = catalog.files()[a.extent.file].name;
    tensor.dtype_a = types.NameOf(catalog, pair.a);
    tensor.shape_a = a.shape;
    tensor.value_shape = ShapeOfValues(a, pair.scale_a);
  }
  if (pair.b != Catalog::kNone) {
    const CatalogTensor& b = catalog.tensors()[pair.b];
    tensor.name = b.name;
    tensor.file_b = catalog.files()[b.extent.file].name;
    tensor.dtype_b = types.NameOf(catalog, pair.b);
    tensor.shape_b = b.shape;
  }
  if (pair.scale_a != nullptr) tensor.scale_a = catalog.tensors()[pair.scale_a->scale].name;
  if (pair.scale_b != nullptr) tensor.scale_b = catalog.tensors()[pair.scale_b->scale].name;
  if (pair.b == Catalog::kNone) tensor.comparison = Comparison::kOnlyInA;
  if (pair.a == Catalog::kNone) tensor.comparison = Comparison::kOnlyInB;
  // The bytes that were equal are those of values.
  if (tensor.comparison == Comparison::kIdenticalBytes &&
      (types.AreMade(catalog, pair.a) || types.AreMade(catalog, pair.b))) {
    tensor.comparison = Comparison::kIdenticalValues;
  }
  return tensor;
}

void Count(Comparison comparison, CompareCounts& counts) {
  switch (comparison) {
    case Comparison::kIdenticalBytes:
      ++counts.identical_bytes;
      return;
    case Comparison::kIdenticalValues:
      ++counts.identical_values;
      return;
    case Comparison::kWithinTolerance:
      ++counts.within_tolerance;
      return;
    case Comparison::kDifferent:
    case Comparison::kDifferentShape:
      ++counts.different;
      return;
    case Comparison::kOnlyInA:
      ++counts.only_in_a;
      return;
    case Comparison::kOnlyInB:
      ++counts.only_in_b;
      return;
  }
}

// "[3, 17]", the element's place; its number in tensors of another rank than two.
std::string Place(const formats::Shape& shape, std::uint64_t element) {
  if (shape.size() != 2 || shape[1] == 0) return fmt::format("[{}]", element);
  return fmt::format("[{}, {}]", element / shape[1], element % shape[1]);
}

std::string DescribeDifference(const ComparedTensor& tensor, const CompareRequest& request) {
  const DifferenceStatistics& s = tensor.statistics;
  if (tensor.codes) {
    return fmt::format(
        "{} of {} stored codes differ, the first at {}; they are of a form that is not decoded, so "
        "how far the values are apart is not known",
        s.differing, s.elements, Place(tensor.shape_a, s.first_element));
  }
  std::string text = fmt::format("{} of {} values differ", s.differing, s.elements);
  if (request.atol != 0 || request.rtol != 0) {
    text += fmt::format(" ({} beyond atol {} + rtol {} × |b|)", s.beyond_tolerance, request.atol,
                        request.rtol);
  }
  if (s.nonfinite_differing != 0) {
    text += fmt::format(", {} of them NaN or infinite", s.nonfinite_differing);
  }
  return text + fmt::format(
                    "; max |a − b| {:.6g}, RMSE {:.6g}, relative {:.6g}; the first at {}: "
                    "{:.9g} and {:.9g}",
                    s.max_abs, s.rmse, s.relative, Place(tensor.value_shape, s.first_element),
                    s.first_a, s.first_b);
}

// Nothing for tensors that pass.
void Judge(const ComparedTensor& tensor, const CompareRequest& request,
           formats::Findings& findings) {
  Finding finding;
  finding.tensor = tensor.name;
  finding.file = tensor.file_a;
  std::string what;
  switch (tensor.comparison) {
    case Comparison::kDifferent:
      finding.kind = "different-values";
      what = DescribeDifference(tensor, request);
      break;
    case Comparison::kDifferentShape:
      finding.kind = "different-shape";
      what = fmt::format("A has {} {}, B has {} {}, so no values were compared", tensor.dtype_a,
                         formats::ShapeToString(tensor.shape_a), tensor.dtype_b,
                         formats::ShapeToString(tensor.shape_b));
      break;
    case Comparison::kOnlyInA:
      finding.kind = "only-in-a";
      what = "only A has it";
      break;
    case Comparison::kOnlyInB:
      finding.kind = "only-in-b";
      finding.file = tensor.file_b;
      what = "only B has it";
      break;
    default:
      return;
  }
  finding.message = fmt::format("{}: tensor {}: {}", formats::ShownPath(finding.file),
                                QuoteForMessage(tensor.name), what);
  findings.push_back(std::move(finding));
}

// One finding for all tensors that a GGUF file may be without.
void JudgeLeftOut(const std::vector<std::string>& names, bool in_a, formats::Findings& findings) {
  if (names.empty()) return;
  Finding finding;
  finding.severity = formats::Severity::kWarning;
  finding.kind = "left-out";
  finding.message =
      fmt::format("{} in {} only, and GGUF files are often made without {}: {}",
                  names.size() == 1 ? "1 tensor is" : fmt::format("{} tensors are", names.size()),
                  in_a ? "A" : "B", names.size() == 1 ? "it" : "them",
                  fmt::join(PatternLines(CountPatterns(names)), ", "));
  findings.push_back(std::move(finding));
}

// Larger differences first; NaN and infinity are larger than all.
std::vector<std::uint32_t> Worst(const std::vector<ComparedTensor>& tensors) {
  std::vector<std::uint32_t> worst;
  for (std::uint32_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].statistics.differing != 0) worst.push_back(i);
  }
  std::stable_sort(worst.begin(), worst.end(), [&](std::uint32_t x, std::uint32_t y) {
    const DifferenceStatistics& a = tensors[x].statistics;
    const DifferenceStatistics& b = tensors[y].statistics;
    return std::pair(a.nonfinite_differing != 0, a.relative) >
           std::pair(b.nonfinite_differing != 0, b.relative);
  });
  return worst;
}

}  // namespace

std::string_view ComparisonName(Comparison comparison) {
  switch (comparison) {
    case Comparison::kIdenticalBytes:
      return "identical-bytes";
    case Comparison::kIdenticalValues:
      return "identical-values";
    case Comparison::kWithinTolerance:
      return "within-tolerance";
    case Comparison::kDifferent:
      return "different";
    case Comparison::kDifferentShape:
      return "different-shape";
    case Comparison::kOnlyInA:
      return "only-in-a";
    case Comparison::kOnlyInB:
      return "only-in-b";
  }
  return "";
}

CompareReport CompareCheckpoints(const CompareRequest& request, ProgressSink& progress,
                                 const StopToken& stop) {
  RequireTolerance(request.atol, "--atol");
  RequireTolerance(request.rtol, "--rtol");
  const OpenOptions opening{.config = request.config, .base = request.base};
  ValueCheckpoint a = OpenSide(request.a, opening);
  ValueCheckpoint b = OpenSide(request.b, opening);
  TakePrefixOf(a, request.b, opening, b);
  TakePrefixOf(b, request.a, opening, a);
  // One side may have a config of its own.
  if (!a.model.config_given) RequireUsed(opening, b.model);
  RequireBaseRead(request.base, ReadsBase(TensorsOf(a.model)) || ReadsBase(TensorsOf(b.model)));
  CompareReport report;
  report.verification.check = "compare";
  // Warnings alone are left.
  for (const ValueCheckpoint* checkpoint : {&a, &b}) {
    report.verification.findings.insert(report.verification.findings.end(),
                                        checkpoint->files.begin(), checkpoint->files.end());
  }
  report.directory_a = a.model.directory;
  report.directory_b = b.model.directory;
  std::set<std::string> files;
  for (const ValueCheckpoint* checkpoint : {&a, &b}) {
    for (const SourceFile& file : checkpoint->model.catalog.files()) files.insert(file.name);
  }
  report.verification.files.assign(files.begin(), files.end());

  report.forms_a = a.forms;
  report.forms_b = b.forms;
  std::vector<bool> codes = a.undecoded;  // by position in both
  codes.insert(codes.end(), b.undecoded.begin(), b.undecoded.end());
  const auto holds_codes = [&](std::uint32_t position) {
    return position != Catalog::kNone && codes[position];
  };
  AddKeyDifferences(a.model, b.model, report.verification.findings);
  const std::vector<bool> may_lack = FindLeftOut(a.model, b.model);
  std::vector<std::string> left_out;
  std::vector<DerivedTensors> derived;
  const StoredTypes types{a.model.gguf.get(), b.model.gguf.get(),
                          static_cast<std::uint32_t>(a.model.catalog.tensors().size())};
  const TwoCheckpoints both = Join(a, b, derived);
  CheckCopies(derived, request.threads, progress, stop);
  const std::vector<TensorPair> pairs = PairTensors(both);
  const RowTensors rows(both.catalog, both.scaled, derived);
  SourceFiles sources(both.catalog, rows.derived());
  const std::vector<PairResult> results =
      ComparePairs(both, pairs, request, sources, progress, stop);
  report.tensors.reserve(pairs.size());
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    report.tensors.push_back(Describe(both.catalog, types, pairs[i], results[i]));
    ComparedTensor& tensor = report.tensors.back();
    tensor.codes = holds_codes(pairs[i].a) || holds_codes(pairs[i].b);
    if (tensor.codes) JudgeAsCodes(tensor);
    Count(tensor.comparison, report.counts);
    const std::uint32_t alone = pairs[i].b == Catalog::kNone   ? pairs[i].a
                                : pairs[i].a == Catalog::kNone ? pairs[i].b
                                                               : Catalog::kNone;
    if (alone != Catalog::kNone && may_lack[alone]) {
      left_out.push_back(tensor.name);
    } else {
      Judge(tensor, request, report.verification.findings);
    }
  }
  JudgeLeftOut(left_out, /*in_a=*/b.model.gguf != nullptr, report.verification.findings);
  report.worst = Worst(report.tensors);
  report.bytes_read = sources.bytes_read();
  return report;
}

}  // namespace dsv3::convert
