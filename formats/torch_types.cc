#include "formats/torch_types.h"

#include <algorithm>
#include <array>

namespace dsv3::formats {
namespace {

constexpr auto kDtypes = std::to_array<TorchDtype>({
    {"torch.float64", "torch.DoubleStorage", 8, Dtype::kF64},
    {"torch.float32", "torch.FloatStorage", 4, Dtype::kF32},
    {"torch.float16", "torch.HalfStorage", 2, Dtype::kF16},
    {"torch.bfloat16", "torch.BFloat16Storage", 2, Dtype::kBF16},
    {"torch.float8_e4m3fn", "", 1, Dtype::kF8E4M3},
    {"torch.float8_e5m2", "", 1, Dtype::kF8E5M2},
    {"torch.float8_e8m0fnu", "", 1, Dtype::kF8E8M0},
    {"torch.float8_e4m3fnuz", "", 1, Dtype::kF8E4M3Fnuz},
    {"torch.float8_e5m2fnuz", "", 1, Dtype::kF8E5M2Fnuz},
    {"torch.int64", "torch.LongStorage", 8, Dtype::kI64},
    {"torch.int32", "torch.IntStorage", 4, Dtype::kI32},
    {"torch.int16", "torch.ShortStorage", 2, Dtype::kI16},
    {"torch.int8", "torch.CharStorage", 1, Dtype::kI8},
    {"torch.uint64", "", 8, Dtype::kU64},
    {"torch.uint32", "", 4, Dtype::kU32},
    {"torch.uint16", "", 2, Dtype::kU16},
    {"torch.uint8", "torch.ByteStorage", 1, Dtype::kU8},
    {"torch.bool", "torch.BoolStorage", 1, Dtype::kBool},
    {"torch.complex32", "", 4, std::nullopt},
    {"torch.complex64", "torch.ComplexFloatStorage", 8, Dtype::kC64},
    {"torch.complex128", "torch.ComplexDoubleStorage", 16, std::nullopt},
});

}  // namespace

const TorchDtype* FindTorchDtype(std::string_view global) {
  const auto* found = std::find_if(kDtypes.begin(), kDtypes.end(),
                                   [&](const TorchDtype& type) { return type.global == global; });
  return found == kDtypes.end() ? nullptr : found;
}

const TorchDtype* FindTorchStorage(std::string_view global) {
  if (global.empty()) return nullptr;
  const auto* found = std::find_if(kDtypes.begin(), kDtypes.end(),
                                   [&](const TorchDtype& type) { return type.storage == global; });
  return found == kDtypes.end() ? nullptr : found;
}

std::vector<std::string_view> WithTorchDtypes(std::span<const std::string_view> names) {
  std::vector<std::string_view> all(names.begin(), names.end());
  for (const TorchDtype& type : kDtypes) {
    all.push_back(type.global);
    if (!type.storage.empty()) all.push_back(type.storage);
  }
  return all;
}

std::optional<Shape> TorchSize(const Pickle& pickle, PickleId id) {
  if (const std::optional<PickleRecord> record = pickle.Record(id)) {
    const std::span<const PickleId> args = pickle.Items(record->args);
    if (record->global != "torch.Size" || args.size() > 1) return std::nullopt;
    if (args.empty()) return Shape{};
    id = args[0];
  }
  if (pickle.Type(id) != PickleType::kTuple) return std::nullopt;
  const std::span<const PickleId> items = pickle.Items(id);
  if (items.size() > kMaxTorchDims) return std::nullopt;
  Shape shape(items.size());
  for (std::size_t i = 0; i < items.size(); ++i) {
    const std::optional<std::int64_t> value = pickle.Int(items[i]);
    if (!value || *value < 0) return std::nullopt;
    shape[i] = static_cast<std::uint64_t>(*value);
  }
  return shape;
}

}  // namespace dsv3::formats
