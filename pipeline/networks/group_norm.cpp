// The kernels of group_norm.py: group norm of images in channels-last, with what follows it in the U-Nets, a scale and
// a shift of each image's channels and SiLU; and its gradients. An image is read again and again, but from the cache.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
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

// Of one image: mean and 1 / standard deviation of the groups, channel by channel; and y = x factor + summand.
struct Moments {
  std::vector<float> mean, inverse, factor, summand;
  explicit Moments(int64_t channels) : mean(channels), inverse(channels), factor(channels), summand(channels) {}
};

float gain_of(const Affine& affine, int64_t at, int64_t c) {
  return affine.scale.empty() ? affine.weight[c] : affine.weight[c] * (affine.scale[at + c] + 1);
}

void set_affine(const Shape& s, const Affine& affine, int64_t image, Moments& m) {
  const int64_t at = image * s.channels;
  for (int64_t c = 0; c < s.channels; ++c) {
    const float scale = affine.scale.empty() ? 1 : affine.scale[at + c] + 1;
    m.factor[c] = m.inverse[c] * gain_of(affine, at, c);
    m.summand[c] = (affine.bias[c] - m.mean[c] * m.inverse[c] * affine.weight[c]) * scale;
    if (!affine.shift.empty()) m.summand[c] += affine.shift[at + c];
  }
}

template <typename T>
void normalize(const T* x, T* y, const Shape& s, const Affine& affine, double eps, bool silu, float* stats) {
  at::parallel_for(0, s.images, 1, [&](int64_t begin, int64_t end) {
    Moments m(s.channels);
    std::vector<float> sums(s.channels);
    for (int64_t image = begin; image < end; ++image) {
      const T* from = x + image * s.pixels * s.channels;
      T* to = y + image * s.pixels * s.channels;
      sums_of<false>(from, s, m.mean.data(), sums.data());
      by_group(s, sums.data(), m.mean.data(), [](double value) { return static_cast<float>(value); });
      sums_of<true>(from, s, m.mean.data(), sums.data());
      by_group(s, sums.data(), m.inverse.data(), [&](double value) {
        return static_cast<float>(1 / std::sqrt(value + eps));
      });
      set_affine(s, affine, image, m);
      if (silu)
        apply<true>(from, to, s, m.factor.data(), m.summand.data());
      else
        apply<false>(from, to, s, m.factor.data(), m.summand.data());
      if (stats != nullptr) {
        std::copy(m.mean.begin(), m.mean.end(), stats + image * 2 * s.channels);
        std::copy(m.inverse.begin(), m.inverse.end(), stats + (image * 2 + 1) * s.channels);
      }
    }
  });
}

// The gradient before SiLU: at z = x factor + summand, of the gradient after it.
template <bool SILU>
inline Vec before_silu(Vec grad, Vec x, const float* factor, const float* summand) {
  if constexpr (!SILU) return grad;
  Vec a, b;
  load(factor, a);
  load(summand, b);
  const Vec z = x * a + b, sigmoid = 1.0f / (1.0f + exp(-z));
  return grad * (sigmoid * (1.0f + z * (1.0f - sigmoid)));
}

// Sums over pixels of the gradient before SiLU, and of its product with the normed image.
template <bool SILU, typename T>
void sums_of_gradients(const T* x, const T* grad, const Shape& s, const Moments& m, float* plain, float* normed) {
  for (int64_t c = 0; c < s.channels; c += WIDE) {
    Vec mean, inverse, total = {}, total_normed = {};
    load(m.mean.data() + c, mean);
    load(m.inverse.data() + c, inverse);
    for (int64_t first = 0; first < s.pixels; first += PART) {
      Vec part = {}, part_normed = {};
      for (int64_t pixel = first; pixel < std::min(first + PART, s.pixels); ++pixel) {
        Vec value, slope;
        load(x + pixel * s.channels + c, value);
        load(grad + pixel * s.channels + c, slope);
        slope = before_silu<SILU>(slope, value, m.factor.data() + c, m.summand.data() + c);
        part += slope;
        part_normed += slope * ((value - mean) * inverse);
      }
      total += part;
      total_normed += part_normed;
    }
    store(total, plain + c);
    store(total_normed, normed + c);
  }
}

// The gradient of the image: slope factor - x of_x - rest.
template <bool SILU, typename T>
void gradient_of(
    const T* x, const T* grad, T* out, const Shape& s, const Moments& m, const float* of_x, const float* rest) {
  for (int64_t pixel = 0; pixel < s.pixels; ++pixel)
    for (int64_t c = 0; c < s.channels; c += WIDE) {
      Vec value, slope, a, b, d;
      load(x + pixel * s.channels + c, value);
      load(grad + pixel * s.channels + c, slope);
      load(m.factor.data() + c, a);
      load(of_x + c, b);
      load(rest + c, d);
      slope = before_silu<SILU>(slope, value, m.factor.data() + c, m.summand.data() + c);
      store(slope * a - value * b - d, out + pixel * s.channels + c);
    }
}

template <bool SILU, typename T>
void gradients(
    const T* x, const T* grad, T* out, const Shape& s, const Affine& affine, const float* stats, float* sums) {
  at::parallel_for(0, s.images, 1, [&](int64_t begin, int64_t end) {
    Moments m(s.channels);
    std::vector<float> of_x(s.channels), rest(s.channels), weighted(s.channels);
    for (int64_t image = begin; image < end; ++image) {
      const int64_t at = image * s.pixels * s.channels;
      const float* mean = stats + image * 2 * s.channels;
      std::copy(mean, mean + s.channels, m.mean.begin());
      std::copy(mean + s.channels, mean + 2 * s.channels, m.inverse.begin());
      set_affine(s, affine, image, m);
      float *plain = sums + image * 2 * s.channels, *normed = plain + s.channels;
      sums_of_gradients<SILU>(x + at, grad + at, s, m, plain, normed);
      const auto mean_of = [&](const float* values, float* means) {  // over a group, weighted by the gains
        for (int64_t c = 0; c < s.channels; ++c) weighted[c] = values[c] * gain_of(affine, image * s.channels, c);
        by_group(s, weighted.data(), means, [](double value) { return static_cast<float>(value); });
      };
      mean_of(plain, rest.data());
      mean_of(normed, of_x.data());
      for (int64_t c = 0; c < s.channels; ++c) {
        of_x[c] *= m.inverse[c] * m.inverse[c];
        rest[c] = rest[c] * m.inverse[c] - m.mean[c] * of_x[c];
      }
      gradient_of<SILU>(x + at, grad + at, out + at, s, m, of_x.data(), rest.data());
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

using Some = std::optional<at::Tensor>;

Shape shape_of(
    const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const Some& scale, const Some& shift,
    int64_t groups) {
  const Shape s{x.size(0), x.size(2) * x.size(3), x.size(1), groups};
  TORCH_CHECK_VALUE(
      s.channels % WIDE == 0 && s.channels % groups == 0 && weight.numel() == s.channels &&
          bias.numel() == s.channels && scale.has_value() == shift.has_value(),
      "group_norm: channels come in multiples of ", WIDE, " (got ", s.channels, ")");
  TORCH_CHECK_VALUE(
      !scale || (scale->numel() == s.images * s.channels && shift->numel() == scale->numel()),
      "group_norm: a scale and a shift for each channel of each image");
  return s;
}

Affine affine_of(
    const Shape& s, const at::Tensor& weight, const at::Tensor& bias, const Some& scale, const Some& shift) {
  return {
      as_floats(weight, s.channels), as_floats(bias, s.channels),
      scale ? as_floats(*scale, s.channels) : std::vector<float>(),
      shift ? as_floats(*shift, s.channels) : std::vector<float>()};
}

at::Tensor like(const at::Tensor& x) {
  return at::empty(x.sizes(), x.options().memory_format(at::MemoryFormat::ChannelsLast));
}

at::Tensor normed(
    const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const Some& scale, const Some& shift,
    int64_t groups, double eps, bool silu, float* stats) {
  const Shape s = shape_of(x, weight, bias, scale, shift, groups);
  const Affine affine = affine_of(s, weight, bias, scale, shift);
  const at::Tensor a = x.contiguous(at::MemoryFormat::ChannelsLast);
  at::Tensor y = like(x);
  if (x.scalar_type() == at::kBFloat16)
    normalize(a.const_data_ptr<at::BFloat16>(), y.mutable_data_ptr<at::BFloat16>(), s, affine, eps, silu, stats);
  else
    normalize(a.const_data_ptr<float>(), y.mutable_data_ptr<float>(), s, affine, eps, silu, stats);
  return y;
}

at::Tensor group_norm(
    const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const Some& scale, const Some& shift,
    int64_t groups, double eps, bool silu) {
  return normed(x, weight, bias, scale, shift, groups, eps, silu, nullptr);
}

// With the means and the inverse standard deviations, (N, 2, C).
std::tuple<at::Tensor, at::Tensor> trained(
    const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const Some& scale, const Some& shift,
    int64_t groups, double eps, bool silu) {
  at::Tensor stats = at::empty({x.size(0), 2, x.size(1)}, at::kFloat);
  at::Tensor y = normed(x, weight, bias, scale, shift, groups, eps, silu, stats.mutable_data_ptr<float>());
  return {y, stats};
}

// The gradient of x; and (N, 2, C), sums over pixels of the gradient before SiLU, and of its product with the normed x.
std::tuple<at::Tensor, at::Tensor> backward(
    const at::Tensor& grad, const at::Tensor& x, const at::Tensor& stats, const at::Tensor& weight,
    const at::Tensor& bias, const Some& scale, const Some& shift, int64_t groups, bool silu) {
  const Shape s = shape_of(x, weight, bias, scale, shift, groups);
  TORCH_CHECK_VALUE(grad.sizes() == x.sizes() && grad.dtype() == x.dtype(), "group_norm: the gradient does not fit");
  const Affine affine = affine_of(s, weight, bias, scale, shift);
  const at::Tensor a = x.contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor b = grad.contiguous(at::MemoryFormat::ChannelsLast);
  at::Tensor out = like(x), sums = at::empty({s.images, 2, s.channels}, at::kFloat);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const auto go = silu ? gradients<true, T> : gradients<false, T>;
    go(a.const_data_ptr<T>(), b.const_data_ptr<T>(), out.mutable_data_ptr<T>(), s, affine,
       stats.const_data_ptr<float>(), sums.mutable_data_ptr<float>());
  };
  if (x.scalar_type() == at::kBFloat16)
    run(at::BFloat16());
  else
    run(0.0f);
  return {out, sums};
}

}  // namespace

TORCH_LIBRARY_IMPL(sigmasweep, CPU, library) {
  library.impl("group_norm", group_norm);
  library.impl("trained_group_norm", trained);
  library.impl("trained_group_norm_backward", backward);
}
