#include "convert/verify/numeric.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "convert/open/value_checkpoint.h"
#include "convert/stream/source_files.h"
#include "convert/verify/numeric_judge.h"
#include "convert/verify/numeric_measure.h"

namespace dsv3::convert {
namespace {

// '*' stands for any characters, '?' for one. Takes time of the product of both lengths at most.
bool MatchesGlob(std::string_view text, std::string_view glob) {
  std::size_t t = 0;
  std::size_t g = 0;
  std::size_t star = std::string_view::npos;  // the last '*' met, and what it stands for so far
  std::size_t star_end = 0;
  while (t < text.size()) {
    if (g < glob.size() && glob[g] == '*') {
      star = g++;
      star_end = t;
    } else if (g < glob.size() && (glob[g] == '?' || glob[g] == text[t])) {
      ++g;
      ++t;
    } else if (star != std::string_view::npos) {
      g = star + 1;
      t = ++star_end;
    } else {
      return false;
    }
  }
  return glob.find_first_not_of('*', g) == std::string_view::npos;
}

std::vector<NumericTensor> Describe(const ValueCheckpoint& checkpoint,
                                    std::vector<Measurement> measurements) {
  const Catalog& catalog = checkpoint.catalog;
  std::vector<NumericTensor> tensors(measurements.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const CatalogTensor& from = catalog.tensors()[i];
    Measurement& m = measurements[i];
    NumericTensor& to = tensors[i];
    to.name = from.name;
    to.file = catalog.files()[from.extent.file].name;
    to.dtype = from.dtype;
    to.shape = from.shape;
    to.measured = m.values != 0 || from.extent.length == 0;
    to.values = m.values;
    to.nans = m.nans;
    to.infinities = m.infinities;
    to.bad_scales = m.bad_scales;
    to.absmax = m.absmax;
    to.rms = m.rms;
    to.histogram = std::move(m.histogram);
  }
  for (const ScaledWeight& pair : checkpoint.scaled.pairs) {
    tensors[pair.weight].scaled = true;
    tensors[pair.scale].is_scale = true;
  }
  return tensors;
}

}  // namespace

NumericReport VerifyNumeric(const NumericRequest& request, ProgressSink& progress,
                            const StopToken& stop) {
  const ValueCheckpoint checkpoint = OpenForValues(request.input);
  const Catalog& catalog = checkpoint.catalog;
  const std::vector<MtpCopy> copies = FindMtpCopies(catalog);
  std::vector<MeasureWish> wishes(catalog.tensors().size());
  for (std::size_t i = 0; i < wishes.size(); ++i) {
    wishes[i].histogram =
        !request.histogram.empty() && MatchesGlob(catalog.tensors()[i].name, request.histogram);
  }
  for (const MtpCopy& copy : copies) {
    wishes[copy.copy].digests = true;
    wishes[copy.main].digests = true;
  }

  SourceFiles sources(catalog);
  std::vector<Measurement> measurements = MeasureAll(checkpoint, wishes, request.threads,
                                                     request.memory_bytes, sources, progress, stop);

  NumericReport report;
  report.directory = checkpoint.directory;
  report.verification.check = "numeric";
  for (const SourceFile& file : catalog.files()) report.verification.files.push_back(file.name);
  formats::Findings& findings = report.verification.findings;
  findings = checkpoint.files;
  findings.insert(findings.end(), checkpoint.scaled.findings.begin(),
                  checkpoint.scaled.findings.end());
  formats::Findings values = JudgeValues(checkpoint, measurements, copies, sources);
  findings.insert(findings.end(), std::make_move_iterator(values.begin()),
                  std::make_move_iterator(values.end()));
  report.tensors = Describe(checkpoint, std::move(measurements));
  report.bytes_read = sources.bytes_read();
  return report;
}

}  // namespace dsv3::convert
