// The kernels of winograd.py: a 3x3 convolution by F(4x4, 3x3), and its gradients, block of tiles by block of
// tiles, so that what lies between the transforms stays in the cache. The products are torch's own, in float32 whatever
// type the images have.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <torch/library.h>

#include <array>
#include <cstring>
#include <vector>

#include "vectors.h"

namespace {

constexpr int64_t BLOCK = 64;  // tiles; measured, for 64 to 512 channels

// Points 0, +-A, +-B and infinity, as in winograd.py: of opposite points the even and odd parts are shared.
constexpr float A = 0.625f, B = 1.5f, AA = A * A, BB = B * B;

inline void transform_input(const Vec d[6], Vec t[6]) {
  t[0] = AA * BB * d[0] - (AA + BB) * d[2] + d[4];
  const Vec even_a = d[4] - BB * d[2], odd_a = A * (d[3] - BB * d[1]);
  t[1] = even_a + odd_a;
  t[2] = even_a - odd_a;
  const Vec even_b = d[4] - AA * d[2], odd_b = B * (d[3] - AA * d[1]);
  t[3] = even_b + odd_b;
  t[4] = even_b - odd_b;
  t[5] = AA * BB * d[1] - (AA + BB) * d[3] + d[5];
}

inline void transform_output(const Vec m[6], Vec y[4]) {
  const Vec even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
  y[0] = m[0] + even_a + even_b;
  y[1] = A * odd_a + B * odd_b;
  y[2] = AA * even_a + BB * even_b;
  y[3] = A * AA * odd_a + B * BB * odd_b + m[5];
}

// The transpose of transform_output: what the gradient of 4 pixels is to 6 products.
inline void transform_gradient(const Vec y[4], Vec m[6]) {
  m[0] = y[0];
  const Vec even_a = y[0] + AA * y[2], odd_a = A * y[1] + A * AA * y[3];
  m[1] = even_a + odd_a;
  m[2] = even_a - odd_a;
  const Vec even_b = y[0] + BB * y[2], odd_b = B * y[1] + B * BB * y[3];
  m[3] = even_b + odd_b;
  m[4] = even_b - odd_b;
  m[5] = y[3];
}

// G: 3 weights to 6 products, a row a point's powers by the product of its distances to the others.
constexpr float AT_ZERO = 1 / (AA * BB), AT_A = 1 / (2 * AA * (AA - BB)), AT_B = 1 / (2 * BB * (BB - AA));

inline void transform_weight(const Vec g[3], Vec u[6]) {
  u[0] = AT_ZERO * g[0];
  const Vec even_a = AT_A * (g[0] + AA * g[2]), odd_a = AT_A * A * g[1];
  u[1] = even_a + odd_a;
  u[2] = even_a - odd_a;
  const Vec even_b = AT_B * (g[0] + BB * g[2]), odd_b = AT_B * B * g[1];
  u[3] = even_b + odd_b;
  u[4] = even_b - odd_b;
  u[5] = g[2];
}

// The transpose: the gradient of 6 products to that of 3 weights.
inline void transform_weight_back(const Vec u[6], Vec g[3]) {
  const Vec even_a = AT_A * (u[1] + u[2]), even_b = AT_B * (u[3] + u[4]);
  g[0] = AT_ZERO * u[0] + even_a + even_b;
  g[1] = AT_A * A * (u[1] - u[2]) + AT_B * B * (u[3] - u[4]);
  g[2] = AA * even_a + BB * even_b + u[5];
}

struct Shape {
  int64_t images, height, width, inputs, outputs;
  int64_t rows() const { return (height + 3) / 4; }
  int64_t columns() const { return (width + 3) / 4; }
  int64_t tiles() const { return images * rows() * columns(); }
};

struct Tile {
  int64_t image, top, left;
  Tile(const Shape& s, int64_t index)
      : image(index / (s.rows() * s.columns())), top(4 * (index / s.columns() % s.rows())), left(4 * (index % s.columns())) {}
  // Where pixel (y, x) begins, in an image of so many channels; -1 outside.
  int64_t at(const Shape& s, int64_t y, int64_t x, int64_t channels) const {
    const bool inside = y >= 0 && y < s.height && x >= 0 && x < s.width;
    return inside ? ((image * s.height + y) * s.width + x) * channels : -1;
  }
};

// One tile's 6x6 pixels to its row of each of the 36 matrices, which are `apart` from each other.
template <typename T>
void into(const Shape& s, const Tile& tile, const T* x, const T* zeros, float* row, int64_t apart) {
  std::array<const T*, 36> pixels;
  for (int64_t i = 0; i < 36; ++i) {
    const int64_t start = tile.at(s, tile.top + i / 6 - 1, tile.left + i % 6 - 1, s.inputs);
    pixels[i] = start < 0 ? zeros : x + start;
  }
  for (int64_t channel = 0; channel < s.inputs; channel += WIDE) {
    Vec half[6][6];
    for (int j = 0; j < 6; ++j) {
      Vec column[6], made[6];
      for (int i = 0; i < 6; ++i) load(pixels[6 * i + j] + channel, column[i]);
      transform_input(column, made);
      for (int i = 0; i < 6; ++i) half[i][j] = made[i];
    }
    for (int i = 0; i < 6; ++i) {
      Vec made[6];
      transform_input(half[i], made);
      for (int j = 0; j < 6; ++j) store(made[j], row + (6 * i + j) * apart + channel);
    }
  }
}

// The way back, to the tile's 4x4 pixels.
template <typename T>
void out_of(const Shape& s, const Tile& tile, const float* row, int64_t apart, const float* bias, T* y) {
  for (int64_t channel = 0; channel < s.outputs; channel += WIDE) {
    Vec half[6][4], shift;
    load(bias + channel, shift);
    for (int i = 0; i < 6; ++i) {
      Vec found[6];
      for (int j = 0; j < 6; ++j) load(row + (6 * i + j) * apart + channel, found[j]);
      transform_output(found, half[i]);
    }
    for (int j = 0; j < 4; ++j) {
      Vec column[6], made[4];
      for (int i = 0; i < 6; ++i) column[i] = half[i][j];
      transform_output(column, made);
      for (int i = 0; i < 4; ++i) {
        const int64_t start = tile.at(s, tile.top + i, tile.left + j, s.outputs);
        if (start >= 0) store(made[i] + shift, y + start + channel);
      }
    }
  }
}

// One tile's 4x4 gradients to its row of each of the 36 matrices.
template <typename T>
void gradient_into(const Shape& s, const Tile& tile, const T* grad, const T* zeros, float* row, int64_t apart) {
  std::array<const T*, 16> pixels;
  for (int64_t i = 0; i < 16; ++i) {
    const int64_t start = tile.at(s, tile.top + i / 4, tile.left + i % 4, s.outputs);
    pixels[i] = start < 0 ? zeros : grad + start;
  }
  for (int64_t channel = 0; channel < s.outputs; channel += WIDE) {
    Vec half[6][4];
    for (int j = 0; j < 4; ++j) {
      Vec column[4], made[6];
      for (int i = 0; i < 4; ++i) load(pixels[4 * i + j] + channel, column[i]);
      transform_gradient(column, made);
      for (int i = 0; i < 6; ++i) half[i][j] = made[i];
    }
    for (int i = 0; i < 6; ++i) {
      Vec made[6];
      transform_gradient(half[i], made);
      for (int j = 0; j < 6; ++j) store(made[j], row + (6 * i + j) * apart + channel);
    }
  }
}

// Some floats for this thread, of one use. They are kept, for new memory costs a page fault every 4 KB.
enum class Use { tiles, weights, sums };

template <Use use>
at::Tensor space_for(int64_t needed) {
  thread_local at::Tensor space;
  if (!space.defined() || space.numel() < needed) space = at::zeros({needed}, at::kFloat);
  return space.narrow(0, 0, needed);
}

int64_t block_of(const Shape& s) {
  return std::min(BLOCK, (s.tiles() + at::get_num_threads() - 1) / at::get_num_threads());
}

// weight: (36, C, K), with whatever strides.
template <typename T>
void convolve(const Shape& s, const T* x, const at::Tensor& weight, const float* bias, T* y) {
  const int64_t block = block_of(s), blocks = (s.tiles() + block - 1) / block;
  const std::vector<T> zeros(s.inputs, T(0));
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    const c10::InferenceMode without_gradients;  // in each thread
    const at::Tensor space = space_for<Use::tiles>(36 * block * (s.inputs + s.outputs));
    for (int64_t index = begin; index < end; ++index) {
      const int64_t start = index * block, count = std::min(block, s.tiles() - start);
      const int64_t ins = count * s.inputs, outs = count * s.outputs;
      const at::Tensor left = space.narrow(0, 0, 36 * ins).view({36, count, s.inputs});
      at::Tensor product = space.narrow(0, 36 * ins, 36 * outs).view({36, count, s.outputs});
      float* rows = left.mutable_data_ptr<float>();
      for (int64_t i = 0; i < count; ++i) into(s, Tile(s, start + i), x, zeros.data(), rows + i * s.inputs, ins);
      at::bmm_out(product, left, weight);
      const float* found = product.const_data_ptr<float>();
      for (int64_t i = 0; i < count; ++i) out_of(s, Tile(s, start + i), found + i * s.outputs, outs, bias, y);
    }
  });
}

at::Tensor answer(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const Shape s{x.size(0), x.size(2), x.size(3), x.size(1), weight.size(2)};
  const at::Tensor in = x.contiguous(at::MemoryFormat::ChannelsLast), added = bias.contiguous();
  at::Tensor out = at::empty({s.images, s.outputs, s.height, s.width}, x.options(), at::MemoryFormat::ChannelsLast);
  const float* shift = added.const_data_ptr<float>();
  if (x.scalar_type() == at::kBFloat16) {
    convolve(s, in.const_data_ptr<at::BFloat16>(), weight, shift, out.mutable_data_ptr<at::BFloat16>());
  } else {
    convolve(s, in.const_data_ptr<float>(), weight, shift, out.mutable_data_ptr<float>());
  }
  return out;
}

void check_channels(int64_t inputs, int64_t outputs) {
  TORCH_CHECK_VALUE(inputs % WIDE == 0 && outputs % WIDE == 0, "conv3x3: channels must be multiples of ", WIDE);
}

at::Tensor conv3x3(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  check_channels(x.size(1), weight.size(2));
  TORCH_CHECK_VALUE(
      weight.sizes() == at::IntArrayRef({36, x.size(1), weight.size(2)}) && bias.numel() == weight.size(2),
      "conv3x3: the weight does not fit");
  return answer(x, weight.contiguous(), bias);
}

// -- training: weights come as (K, C, 3, 3), channels-last, and change with every step ---------------------------------

// A float32 matrix of so many rows of (count, C) each, count being 9 or 36: where the values of 16 channels lie.
struct Rows {
  int64_t row, apart;  // from one row to the next, and from one of the values of a row to the next
};

// The maps of weights to products, or back, for every pair of channels.
template <int FROM, int TO, typename Map>
void map_weights(int64_t outputs, int64_t inputs, const float* from, Rows at, float* to, Rows there, bool turned, Map map) {
  at::parallel_for(0, outputs, 8, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      for (int64_t channel = 0; channel < inputs; channel += WIDE) {
        const float* source = from + k * at.row + channel;
        Vec half[TO][FROM];
        for (int j = 0; j < FROM; ++j) {
          Vec column[FROM], made[TO];
          for (int i = 0; i < FROM; ++i) {
            const int place = FROM * i + j;
            load(source + (turned ? FROM * FROM - 1 - place : place) * at.apart, column[i]);
          }
          map(column, made);
          for (int i = 0; i < TO; ++i) half[i][j] = made[i];
        }
        for (int i = 0; i < TO; ++i) {
          Vec made[TO];
          map(half[i], made);
          for (int j = 0; j < TO; ++j) store(made[j], to + k * there.row + (TO * i + j) * there.apart + channel);
        }
      }
    }
  });
}

// The products of a weight, (36, K, C), in space that the next call takes again; `turned` by half a turn for gradients.
at::Tensor products_of(const at::Tensor& weight, bool turned) {
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  check_channels(inputs, outputs);
  TORCH_CHECK_VALUE(weight.size(2) == 3 && weight.size(3) == 3, "conv3x3: the weight does not fit");
  const at::Tensor given = weight.contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor products = space_for<Use::weights>(36 * outputs * inputs).view({36, outputs, inputs});
  const Rows at{9 * inputs, inputs}, there{inputs, outputs * inputs};
  map_weights<3, 6>(
      outputs, inputs, given.const_data_ptr<float>(), at, products.mutable_data_ptr<float>(), there, turned,
      transform_weight);
  return products;
}

at::Tensor trained(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  TORCH_CHECK_VALUE(weight.size(1) == x.size(1) && bias.numel() == weight.size(0), "conv3x3: the weight does not fit");
  return answer(x, products_of(weight, false).transpose(1, 2), bias);
}

at::Tensor image_gradient(const at::Tensor& grad, const at::Tensor& weight) {
  TORCH_CHECK_VALUE(weight.size(0) == grad.size(1), "conv3x3: the weight does not fit");
  return answer(grad, products_of(weight, true), at::zeros({weight.size(1)}, at::kFloat));
}

// Sums over tiles of products of both sides' rows, (36, K, C): every thread its part, added in the order of the parts.
template <typename T>
at::Tensor sums_of(const Shape& s, const T* x, const T* grad) {
  const int64_t block = block_of(s), blocks = (s.tiles() + block - 1) / block;
  const int64_t share = (blocks + at::get_num_threads() - 1) / at::get_num_threads(), parts = (blocks + share - 1) / share;
  const std::vector<T> zeros(std::max(s.inputs, s.outputs), T(0));
  const at::Tensor sums =
      space_for<Use::sums>(parts * 36 * s.outputs * s.inputs).view({parts, 36, s.outputs, s.inputs});
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    const c10::InferenceMode without_gradients;  // in each thread
    const at::Tensor space = space_for<Use::tiles>(36 * block * (s.inputs + s.outputs));
    for (int64_t part = begin; part < end; ++part) {
      at::Tensor sum = sums.select(0, part);
      for (int64_t index = part * share; index < std::min(blocks, (part + 1) * share); ++index) {
        const int64_t start = index * block, count = std::min(block, s.tiles() - start);
        const int64_t ins = count * s.inputs, outs = count * s.outputs;
        const at::Tensor left = space.narrow(0, 0, 36 * ins).view({36, count, s.inputs});
        const at::Tensor right = space.narrow(0, 36 * ins, 36 * outs).view({36, count, s.outputs});
        float *a = left.mutable_data_ptr<float>(), *b = right.mutable_data_ptr<float>();
        for (int64_t i = 0; i < count; ++i) {
          into(s, Tile(s, start + i), x, zeros.data(), a + i * s.inputs, ins);
          gradient_into(s, Tile(s, start + i), grad, zeros.data(), b + i * s.outputs, outs);
        }
        at::baddbmm_out(sum, sum, right.transpose(1, 2), left, /*beta=*/index > part * share ? 1 : 0);
      }
    }
  });
  for (int64_t part = 1; part < parts; ++part) sums[0].add_(sums[part]);
  return sums[0];
}

at::Tensor weight_gradient(const at::Tensor& x, const at::Tensor& grad) {
  const Shape s{x.size(0), x.size(2), x.size(3), x.size(1), grad.size(1)};
  check_channels(s.inputs, s.outputs);
  TORCH_CHECK_VALUE(
      grad.sizes() == at::IntArrayRef({s.images, s.outputs, s.height, s.width}) && grad.dtype() == x.dtype(),
      "conv3x3: the gradient does not fit");
  const c10::InferenceMode without_gradients;
  const at::Tensor a = x.contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor b = grad.contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor sums = x.scalar_type() == at::kBFloat16
      ? sums_of(s, a.const_data_ptr<at::BFloat16>(), b.const_data_ptr<at::BFloat16>())
      : sums_of(s, a.const_data_ptr<float>(), b.const_data_ptr<float>());
  at::Tensor found = [&] {
    const c10::InferenceMode with_gradients(false);
    return at::empty({s.outputs, s.inputs, 3, 3}, at::kFloat, at::MemoryFormat::ChannelsLast);
  }();
  const Rows at{s.inputs, s.outputs * s.inputs}, there{9 * s.inputs, s.inputs};
  map_weights<6, 3>(
      s.outputs, s.inputs, sums.const_data_ptr<float>(), at, found.mutable_data_ptr<float>(), there, false,
      transform_weight_back);
  return found;
}

}  // namespace

TORCH_LIBRARY_IMPL(sigmasweep, CPU, library) {
  library.impl("conv3x3", conv3x3);
  library.impl("trained_conv3x3", trained);
  library.impl("trained_conv3x3_image_gradient", image_gradient);
  library.impl("trained_conv3x3_weight_gradient", weight_gradient);
}
