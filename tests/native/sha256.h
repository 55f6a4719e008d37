// SHA-256 (FIPS 180-4), for a checker that may depend on nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

inline std::string sha256(const uint8_t* data, size_t size) {
  const auto rotate = [](uint32_t x, int n) { return x >> n | x << (32 - n); };
  // The constants are the first 32 bits of the fractional parts of roots of the first primes.
  uint32_t k[64], h[8];
  const auto fraction = [](long double x) {
    return static_cast<uint32_t>((x - static_cast<uint64_t>(x)) * 4294967296.0L);
  };
  for (int n = 0, p = 2; n < 64; ++p) {
    bool prime = true;
    for (int d = 2; d * d <= p; ++d) prime &= p % d != 0;
    if (!prime) continue;
    long double square = p, cube = p;
    for (int i = 0; i < 60; ++i) {
      square = (square + p / square) / 2;
      cube = (2 * cube + p / (cube * cube)) / 3;
    }
    k[n] = fraction(cube);
    if (n < 8) h[n] = fraction(square);
    ++n;
  }
  std::vector<uint8_t> message(data, data + size);
  message.push_back(0x80);
  while (message.size() % 64 != 56) message.push_back(0);
  for (int i = 7; i >= 0; --i)
    message.push_back(static_cast<uint8_t>(static_cast<uint64_t>(size) * 8 >> (8 * i)));
  for (size_t block = 0; block < message.size(); block += 64) {
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; ++i) {
      const uint8_t* b = message.data() + block + 4 * i;
      w[i] = static_cast<uint32_t>(b[0]) << 24 | static_cast<uint32_t>(b[1]) << 16 |
             static_cast<uint32_t>(b[2]) << 8 | b[3];
    }
    for (int i = 16; i < 64; ++i)
      w[i] = w[i - 16] + w[i - 7] +
             (rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3) +
             (rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10);
    for (int i = 0; i < 8; ++i) s[i] = h[i];
    for (int i = 0; i < 64; ++i) {
      const uint32_t t1 = s[7] + (rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25)) +
                          ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
      const uint32_t t2 = (rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22)) +
                          ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
      for (int j = 7; j > 0; --j) s[j] = s[j - 1];
      s[4] += t1;
      s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; ++i) h[i] += s[i];
  }
  std::string hex;
  for (uint32_t word : h) {
    char part[9];
    std::snprintf(part, sizeof part, "%08x", word);
    hex += part;
  }
  return hex;
}
