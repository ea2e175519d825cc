// Functions of floats and of vectors of floats.
#pragma once

#include <cstdint>
#include <cstring>

namespace kernels {

// e^x for x <= 0 with a relative error of 1e-7, by the polynomial of Cephes. Below -87, e^-87 = 1.6e-38 is returned.
template <typename Float = float, typename Integer = int32_t>
inline Float exp_negative(Float x) {
  x = x < -87.0f ? -87.0f : x;
  Float n = x * 1.44269504f + 12582912.0f;  // adding 1.5 * 2^23 rounds x / log 2 to an integer in the lowest bits
  Integer bits;
  std::memcpy(&bits, &n, sizeof bits);
  n -= 12582912.0f;
  const Float r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
  Float p = r * 1.98756915e-4f + 1.39819995e-3f;
  p = p * r + 8.33345191e-3f;
  p = p * r + 4.16657959e-2f;
  p = p * r + 1.66666655e-1f;
  p = p * r + 5.00000012e-1f;
  p = p * r * r + r + 1.0f;
  bits = (bits + 127) << 23;
  Float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

}  // namespace kernels
