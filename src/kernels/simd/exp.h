// The exponential over a tier's vectors. Included inside the namespace and target region of each tier.

/// e^x with a relative error below 2e-7 wherever the result is a normal number (graceful below, 0 and infinity beyond;
/// exp(-infinity) = 0; NaN stays). x = n ln 2 + r with |r| <= ln 2 / 2 (ln 2 in two parts: Cody and Waite, "Software
/// Manual for the Elementary Functions", 1980), n rounded by adding a number whose last bit is worth 1; and e^r by the
/// polynomial 1 + r + r^2 (...) of degree 6 of the least relative error, 3e-9.
inline F32 exp(F32 x) {
  x = max(broadcast(-104.0F), min(broadcast(89.0F), x));
  const F32 rounder = broadcast(0x1.8p23F);
  const F32 n = fma(x, broadcast(0x1.715476p+0F), rounder) - rounder;
  F32 r = fma(n, broadcast(-0x1.62ep-1F), x);
  r = fma(n, broadcast(-0x1.0bfbe8p-15F), r);
  F32 y = broadcast(0x1.6a2434p-10F);
  y = fma(y, r, broadcast(0x1.1239e2p-7F));
  y = fma(y, r, broadcast(0x1.5558f2p-5F));
  y = fma(y, r, broadcast(0x1.555492p-3F));
  y = fma(y, r, broadcast(0x1.fffffcp-2F));
  y = fma(y, r, broadcast(1.0F));
  y = fma(y, r, broadcast(1.0F));
  return times_power_of_2(y, n);
}
