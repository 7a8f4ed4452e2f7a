#include "convert/verify/numeric.h"

#include <algorithm>
#include <iterator>
#include <string_view>
#include <utility>

#include "convert/catalog/glob.h"
#include "convert/model/unknown_quantization.h"
#include "convert/model/zero_weights.h"
#include "convert/open/base_tensors.h"
#include "convert/open/gguf_model.h"
#include "convert/plan/row_tensors.h"
#include "convert/stream/derived_checks.h"
#include "convert/stream/source_files.h"
#include "convert/stream/weight_shapes.h"
#include "convert/verify/gguf_tensors.h"
#include "convert/verify/numeric_judge.h"
#include "convert/verify/numeric_measure.h"
#include "convert/verify/value_checkpoint.h"
#include "formats/dtype.h"

namespace dsv3::convert {
namespace {

std::vector<NumericTensor> Describe(const ValueCheckpoint& checkpoint,
                                    std::vector<Measurement> measurements) {
  const Catalog& catalog = checkpoint.model.catalog;
  std::vector<NumericTensor> tensors(measurements.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const CatalogTensor& from = catalog.tensors()[i];
    Measurement& m = measurements[i];
    NumericTensor& to = tensors[i];
    to.name = from.name;
    to.file = catalog.files()[from.extent.file].name;
    to.dtype = checkpoint.model.gguf
                   ? GgufTypesOf(*checkpoint.model.gguf, static_cast<std::uint32_t>(i))
                   : std::string(formats::DtypeName(from.dtype));
    to.shape = from.shape;
    if (checkpoint.undecoded[i]) continue;
    to.measured = m.values != 0 || from.extent.length == 0;
    to.values = m.values;
    to.nans = m.nans;
    to.infinities = m.infinities;
    to.bad_scales = m.bad_scales.count;
    to.absmax = m.absmax;
    to.rms = m.rms;
    to.histogram = std::move(m.histogram);
  }
  for (const ScaledWeight& pair : checkpoint.scaled.pairs) {
    tensors[pair.weight].scaled = true;
    tensors[pair.scale].is_scale = true;
    if (pair.tensor_scale != Catalog::kNone) tensors[pair.tensor_scale].is_scale = true;
  }
  return tensors;
}

}  // namespace

NumericReport VerifyNumeric(const NumericRequest& request, ProgressSink& progress,
                            const StopToken& stop) {
  const OpenOptions opening{.config = request.config, .from = request.from, .base = request.base};
  const ValueCheckpoint checkpoint = OpenForValues(request.input, opening);
  RequireUsed(opening, checkpoint.model);
  RequireBaseRead(request.base, ReadsBase(TensorsOf(checkpoint.model)));
  const Catalog& catalog = checkpoint.model.catalog;
  const std::vector<MtpCopy> copies = FindMtpCopies(catalog, checkpoint.model.config);
  std::vector<MeasureWish> wishes(catalog.tensors().size());
  for (std::size_t i = 0; i < wishes.size(); ++i) {
    wishes[i].histogram =
        !request.histogram.empty() && MatchesGlob(request.histogram, catalog.tensors()[i].name);
    const CatalogTensor& tensor = catalog.tensors()[i];
    wishes[i].zero_runs = checkpoint.undecoded[i] ||
                          IsWeightMatrix(tensor.name, tensor.dtype, tensor.shape) ||
                          IsCodeMatrix(tensor.name, tensor.dtype, tensor.shape);
  }
  for (const ScaledWeight& pair : checkpoint.scaled.pairs) wishes[pair.weight].zero_runs = true;
  for (const MtpCopy& copy : copies) {
    wishes[copy.copy].digests = true;
    wishes[copy.main].digests = true;
  }

  const std::vector<DerivedTensors> derived = TensorsOf(checkpoint.model).derived;
  CheckCopies(derived, request.threads, progress, stop);
  const RowTensors rows(catalog, checkpoint.scaled.pairs, derived);
  SourceFiles sources(catalog, rows.derived());
  std::vector<Measurement> measurements = MeasureAll(checkpoint, wishes, request.threads,
                                                     request.memory_bytes, sources, progress, stop);

  NumericReport report;
  report.directory = checkpoint.model.directory;
  report.verification.check = "numeric";
  for (const SourceFile& file : catalog.files()) report.verification.files.push_back(file.name);
  formats::Findings& findings = report.verification.findings;
  findings = checkpoint.files;
  if (checkpoint.model.gguf) {
    formats::Findings tensors = JudgeGgufTensors(checkpoint.model);
    findings.insert(findings.end(), std::make_move_iterator(tensors.begin()),
                    std::make_move_iterator(tensors.end()));
  }
  findings.insert(findings.end(), checkpoint.scaled.findings.begin(),
                  checkpoint.scaled.findings.end());
  if (auto codes = FindUnexplainedCodes(catalog, checkpoint.scaled)) {
    findings.push_back(std::move(*codes));
  }
  formats::Findings shapes = FindWrongWeightShapes(
      catalog, checkpoint.scaled.pairs, [](std::string_view /*file*/) { return true; }, sources,
      stop);
  findings.insert(findings.end(), std::make_move_iterator(shapes.begin()),
                  std::make_move_iterator(shapes.end()));
  formats::Findings values = JudgeValues(checkpoint, measurements, copies, sources);
  findings.insert(findings.end(), std::make_move_iterator(values.begin()),
                  std::make_move_iterator(values.end()));
  report.forms = checkpoint.forms;
  report.tensors = Describe(checkpoint, std::move(measurements));
  report.bytes_read = sources.bytes_read();
  return report;
}

}  // namespace dsv3::convert
