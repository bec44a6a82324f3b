// Sixteen float32 numbers at once, read from and written to float32 and bfloat16.
#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>
#include <cstring>

namespace {

constexpr int WIDE = 16;  // channels at once; the compiler cuts them into what the machine has

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

}  // namespace
