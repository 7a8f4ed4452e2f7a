#include "convert/verify/numeric_outliers.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

namespace dsv3::convert {
namespace {

constexpr std::size_t kMinGroup = 3;
constexpr double kMinRmsDistance = 3;
constexpr double kMinAbsmaxDistance = 5;
constexpr double kDeviations = 8;
// The standard deviation of a normal distribution, in median absolute deviations.
constexpr double kDeviationPerMad = 1.4826;

double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

struct Usual {
  double median = 0;     // of log2
  double tolerance = 0;  // distance from there that is still usual

  bool IsApart(double log) const { return std::abs(log - median) > tolerance; }
};

Usual FindUsual(const std::vector<double>& logs, double min_distance) {
  const double median = Median(logs);
  std::vector<double> distances;
  distances.reserve(logs.size());
  for (const double log : logs) distances.push_back(std::abs(log - median));
  const double deviation = kDeviationPerMad * Median(std::move(distances));
  return {median, std::max(min_distance, kDeviations * deviation)};
}

void JudgeGroup(std::span<const TensorMagnitude> group, std::vector<Outlier>& outliers) {
  if (group.size() < kMinGroup) return;
  std::vector<double> rms;
  std::vector<double> absmax;
  for (const TensorMagnitude& tensor : group) {
    rms.push_back(std::log2(tensor.rms));
    absmax.push_back(std::log2(tensor.absmax));
  }
  const Usual usual_rms = FindUsual(rms, kMinRmsDistance);
  const Usual usual_absmax = FindUsual(absmax, kMinAbsmaxDistance);
  for (std::size_t i = 0; i < group.size(); ++i) {
    const bool by_rms = usual_rms.IsApart(rms[i]);
    if (!by_rms && !usual_absmax.IsApart(absmax[i])) continue;
    outliers.push_back({group[i].tensor, group[i].pattern, group.size(), by_rms,
                        by_rms ? group[i].rms : group[i].absmax,
                        std::exp2(by_rms ? usual_rms.median : usual_absmax.median)});
  }
}

}  // namespace

std::vector<Outlier> FindOutliers(std::vector<TensorMagnitude> magnitudes) {
  std::sort(magnitudes.begin(), magnitudes.end(), [](const auto& a, const auto& b) {
    return std::pair(std::string_view(a.pattern), a.tensor) <
           std::pair(std::string_view(b.pattern), b.tensor);
  });
  std::vector<Outlier> outliers;
  for (auto begin = magnitudes.begin(); begin != magnitudes.end();) {
    const auto end = std::find_if(begin, magnitudes.end(), [&](const TensorMagnitude& tensor) {
      return tensor.pattern != begin->pattern;
    });
    JudgeGroup(std::span(begin, end), outliers);
    begin = end;
  }
  std::sort(outliers.begin(), outliers.end(),
            [](const Outlier& a, const Outlier& b) { return a.tensor < b.tensor; });
  return outliers;
}

}  // namespace dsv3::convert
