#pragma once

#include <filesystem>

#include "convert/catalog/progress.h"
#include "convert/job/run_options.h"
#include "convert/open/open_model.h"
#include "convert/plan/plan.h"
#include "convert/plan/planned_file.h"
#include "formats/io/file_system.h"

namespace dsv3::convert {

// An output that is one file, OUT, or several beside each other with names of the plan, and a
// manifest, OUT.manifest.json. A job makes them in a directory, OUT.partial, as every job makes its
// directory; once all is complete they get their names, the manifest last, and the directory goes.
class OneFileOutput {
 public:
  // Throws Error (kUsage) where OUT is a directory.
  OneFileOutput(std::filesystem::path output, bool overwrite);

  // The directory that the job writes.
  const std::filesystem::path& directory() const { return directory_; }

  const std::filesystem::path& manifest() const { return manifest_; }

  // Whether the complete output of this plan is there: the manifest says the same job, the files
  // have their sizes and headers, and FindOtherTensor finds nothing. A run that may end the job
  // finishes first what a run left that ended between the names; to a part, and to a dry run, that
  // is complete. Throws Error (kUsage) where anything else has the name of a file, unless it may be
  // overwritten.
  bool IsFinished(const Plan& plan, const ModelTensors& source, const RunOptions& run,
                  formats::FileSystem& file_system, const StopToken& stop) const;

  // Gives the complete files their names. May be called again after it was interrupted. Throws
  // Error: kUsage while another run writes the directory; kIo.
  void Place(const Plan& plan, formats::FileSystem& file_system) const;

 private:
  void RequireSameSource(const Plan& plan, const ModelTensors& source, const StopToken& stop) const;
  std::filesystem::path PlaceOf(const PlannedFile& file) const;
  bool IsPlaced(const PlannedFile& file) const;
  bool EndedWhilePlacing(const Plan& plan) const;
  void PlaceFiles(const Plan& plan, formats::FileSystem& file_system) const;

  std::filesystem::path output_;
  std::filesystem::path manifest_;
  std::filesystem::path directory_;
  bool overwrite_;
};

}  // namespace dsv3::convert
