// The kernel of winograd.py: a 3x3 convolution by F(4x4, 3x3), block of tiles by block of tiles, so that what lies
// between the transforms stays in the cache. The products are torch's own, in float32 whatever type the images have.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <torch/library.h>

#include <array>
#include <cstring>
#include <vector>

namespace {

constexpr int64_t BLOCK = 64;  // tiles; measured, for 64 to 512 channels
constexpr int WIDE = 16;       // channels at once; the compiler cuts them into what the machine has

typedef float Vec __attribute__((vector_size(4 * WIDE)));
typedef uint32_t Bits __attribute__((vector_size(4 * WIDE)));
typedef uint16_t Halves __attribute__((vector_size(2 * WIDE)));

inline void load(const float* from, Vec& to) { std::memcpy(&to, from, sizeof to); }

inline void load(const at::BFloat16* from, Vec& to) {
  Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  const Bits bits = __builtin_convertvector(halves, Bits) << 16;
  std::memcpy(&to, &bits, sizeof to);
}

inline void store(const Vec& from, float* to) { std::memcpy(to, &from, sizeof from); }

inline void store(const Vec& from, at::BFloat16* to) {  // rounds to the nearest, ties to even
  Bits bits;
  std::memcpy(&bits, &from, sizeof bits);
  bits += 0x7fff + ((bits >> 16) & 1);
  const Halves halves = __builtin_convertvector(bits >> 16, Halves);
  std::memcpy(to, &halves, sizeof halves);
}

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

template <typename T>
void convolve(const Shape& s, const T* x, const at::Tensor& weight, const float* bias, T* y) {
  const int64_t share = (s.tiles() + at::get_num_threads() - 1) / at::get_num_threads();
  const int64_t block = std::min(BLOCK, share), blocks = (s.tiles() + block - 1) / block;
  const std::vector<T> zeros(s.inputs, T(0));
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    const c10::InferenceMode without_gradients;  // in each thread
    thread_local at::Tensor space;  // kept, for new memory costs a page fault every 4 KB
    const int64_t needed = 36 * block * (s.inputs + s.outputs);
    if (!space.defined() || space.numel() < needed) space = at::zeros({needed}, weight.options());
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

at::Tensor conv3x3(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const Shape s{x.size(0), x.size(2), x.size(3), x.size(1), weight.size(2)};
  TORCH_CHECK_VALUE(s.inputs % WIDE == 0 && s.outputs % WIDE == 0, "conv3x3: channels must be multiples of ", WIDE);
  TORCH_CHECK_VALUE(
      weight.sizes() == at::IntArrayRef({36, s.inputs, s.outputs}) && bias.numel() == s.outputs,
      "conv3x3: the weight does not fit");
  const at::Tensor in = x.contiguous(at::MemoryFormat::ChannelsLast);
  at::Tensor out = at::empty({s.images, s.outputs, s.height, s.width}, x.options(), at::MemoryFormat::ChannelsLast);
  const at::Tensor factor = weight.contiguous(), added = bias.contiguous();
  const float* shift = added.const_data_ptr<float>();
  if (x.scalar_type() == at::kBFloat16) {
    convolve(s, in.const_data_ptr<at::BFloat16>(), factor, shift, out.mutable_data_ptr<at::BFloat16>());
  } else {
    convolve(s, in.const_data_ptr<float>(), factor, shift, out.mutable_data_ptr<float>());
  }
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(sigmasweep, CPU, library) { library.impl("conv3x3", conv3x3); }
