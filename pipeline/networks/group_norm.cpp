// The kernel of group_norm.py: group norm of images in channels-last, with what follows it in the U-Nets, a scale and a
// shift of each image's channels and SiLU. An image is read three times, but from the cache after the first.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "vectors.h"

namespace {

constexpr int64_t PART = 64;  // pixels that are added up by themselves, so that long sums lose no digits

struct Shape {
  int64_t images, pixels, channels, groups;
};

struct Affine {  // scale and shift are of images, and may be missing
  std::vector<float> weight, bias, scale, shift;
};

// e^x in float32: 2^k times the series of e^r, |r| <= ln(2) / 2, to the seventh power.
inline Vec exp(Vec x) {
  const Vec low = Vec{} - 87.0f, high = Vec{} + 88.0f;
  x = x < low ? low : x > high ? high : x;
  const Vec magic = Vec{} + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Vec shifted = x * 1.44269504f + magic, k = shifted - magic;
  const Vec r = (x - k * 0.693359375f) + k * 2.12194440e-4f;  // ln 2 in two parts
  Vec series = r * (1.0f / 5040) + 1.0f / 720;
  series = series * r + 1.0f / 120;
  series = series * r + 1.0f / 24;
  series = series * r + 1.0f / 6;
  series = series * r + 0.5f;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
  Bits bits, power;
  std::memcpy(&bits, &series, sizeof bits);
  std::memcpy(&power, &shifted, sizeof power);
  bits += power << 23;  // the lowest bits of `shifted` are k
  std::memcpy(&series, &bits, sizeof series);
  return series;
}

// The sums over pixels of the channels of W vectors, or of the squares of their distances to a mean.
template <bool SQUARES, int W, typename T>
void add_up(const T* x, int64_t pixels, int64_t channels, const float* mean, float* sums) {
  Vec total[W] = {}, middle[W] = {};
  if constexpr (SQUARES)
    for (int w = 0; w < W; ++w) load(mean + w * WIDE, middle[w]);
  for (int64_t first = 0; first < pixels; first += PART) {
    Vec part[W] = {};
    const int64_t last = std::min(first + PART, pixels);
    for (int64_t pixel = first; pixel < last; ++pixel)
      for (int w = 0; w < W; ++w) {
        Vec value;
        load(x + pixel * channels + w * WIDE, value);
        if constexpr (SQUARES) {
          value -= middle[w];
          value *= value;
        }
        part[w] += value;
      }
    for (int w = 0; w < W; ++w) total[w] += part[w];
  }
  for (int w = 0; w < W; ++w) store(total[w], sums + w * WIDE);
}

template <bool SQUARES, typename T>
void sums_of(const T* x, const Shape& s, const float* mean, float* sums) {
  int64_t c = 0;
  for (; c + 4 * WIDE <= s.channels; c += 4 * WIDE)
    add_up<SQUARES, 4>(x + c, s.pixels, s.channels, mean + c, sums + c);
  for (; c < s.channels; c += WIDE) add_up<SQUARES, 1>(x + c, s.pixels, s.channels, mean + c, sums + c);
}

// What all channels of a group have in common, by the mean of theirs.
template <typename F>
void by_group(const Shape& s, const float* sums, float* out, F of_mean) {
  const int64_t width = s.channels / s.groups;
  for (int64_t group = 0; group < s.groups; ++group) {
    double sum = 0;
    for (int64_t i = 0; i < width; ++i) sum += sums[group * width + i];
    const float value = of_mean(sum / static_cast<double>(width * s.pixels));
    for (int64_t i = 0; i < width; ++i) out[group * width + i] = value;
  }
}

template <bool SILU, typename T>
void apply(const T* x, T* y, const Shape& s, const float* factor, const float* summand) {
  for (int64_t pixel = 0; pixel < s.pixels; ++pixel)
    for (int64_t c = 0; c < s.channels; c += WIDE) {
      Vec value, a, b;
      load(x + pixel * s.channels + c, value);
      load(factor + c, a);
      load(summand + c, b);
      value = value * a + b;
      if constexpr (SILU) value /= 1.0f + exp(-value);
      store(value, y + pixel * s.channels + c);
    }
}

template <typename T>
void normalize(const T* x, T* y, const Shape& s, const Affine& affine, double eps, bool silu) {
  at::parallel_for(0, s.images, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> sums(s.channels), mean(s.channels), factor(s.channels), summand(s.channels);
    for (int64_t image = begin; image < end; ++image) {
      const T* from = x + image * s.pixels * s.channels;
      T* to = y + image * s.pixels * s.channels;
      sums_of<false>(from, s, mean.data(), sums.data());
      by_group(s, sums.data(), mean.data(), [](double value) { return static_cast<float>(value); });
      sums_of<true>(from, s, mean.data(), sums.data());
      by_group(s, sums.data(), factor.data(), [&](double value) { return static_cast<float>(1 / std::sqrt(value + eps)); });
      for (int64_t c = 0; c < s.channels; ++c) {
        factor[c] *= affine.weight[c];
        summand[c] = affine.bias[c] - mean[c] * factor[c];
        if (!affine.scale.empty()) {
          const float scale = affine.scale[image * s.channels + c] + 1;
          factor[c] *= scale;
          summand[c] = summand[c] * scale + affine.shift[image * s.channels + c];
        }
      }
      if (silu)
        apply<true>(from, to, s, factor.data(), summand.data());
      else
        apply<false>(from, to, s, factor.data(), summand.data());
    }
  });
}

// (rows, channels), row by row.
std::vector<float> as_floats(const at::Tensor& values, int64_t channels) {
  const at::Tensor rows = values.reshape({-1, channels});
  std::vector<float> found(rows.numel());
  const auto copy = [&](auto zero) {
    using T = decltype(zero);
    const T* from = rows.const_data_ptr<T>();
    for (int64_t row = 0; row < rows.size(0); ++row)
      for (int64_t c = 0; c < channels; ++c)
        found[row * channels + c] = static_cast<float>(from[row * rows.stride(0) + c * rows.stride(1)]);
  };
  if (values.scalar_type() == at::kBFloat16)
    copy(at::BFloat16());
  else
    copy(0.0f);
  return found;
}

at::Tensor group_norm(
    const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const std::optional<at::Tensor>& scale,
    const std::optional<at::Tensor>& shift, int64_t groups, double eps, bool silu) {
  const Shape s{x.size(0), x.size(2) * x.size(3), x.size(1), groups};
  TORCH_CHECK_VALUE(
      s.channels % WIDE == 0 && s.channels % groups == 0 && weight.numel() == s.channels &&
          bias.numel() == s.channels && scale.has_value() == shift.has_value(),
      "group_norm: channels come in multiples of ", WIDE, " (got ", s.channels, ")");
  TORCH_CHECK_VALUE(
      !scale || (scale->numel() == s.images * s.channels && shift->numel() == scale->numel()),
      "group_norm: a scale and a shift for each channel of each image");
  const c10::InferenceMode without_gradients;
  const at::Tensor a = x.contiguous(at::MemoryFormat::ChannelsLast);
  const Affine affine{
      as_floats(weight, s.channels), as_floats(bias, s.channels),
      scale ? as_floats(*scale, s.channels) : std::vector<float>(),
      shift ? as_floats(*shift, s.channels) : std::vector<float>()};
  at::Tensor y = at::empty(x.sizes(), x.options().memory_format(at::MemoryFormat::ChannelsLast));
  if (x.scalar_type() == at::kBFloat16)
    normalize(a.const_data_ptr<at::BFloat16>(), y.mutable_data_ptr<at::BFloat16>(), s, affine, eps, silu);
  else
    normalize(a.const_data_ptr<float>(), y.mutable_data_ptr<float>(), s, affine, eps, silu);
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(sigmasweep, CPU, library) { library.impl("group_norm", group_norm); }
