// The exponential over a tier's vectors. Included inside the namespace and target region of each tier.

/// e^x with a relative error below 2e-7 wherever the result is a normal number (graceful below, 0 and infinity beyond;
/// exp(-infinity) = 0; NaN stays). x = n ln 2 + r with |r| <= ln 2 / 2 (ln 2 in two parts: Cody and Waite, "Software
/// Manual for the Elementary Functions", 1980), and e^r by its series to degree 7.
inline F32 exp(F32 x) {
  x = max(broadcast(-104.0F), min(broadcast(89.0F), x));
  const F32 n = round(x * broadcast(0x1.715476p+0F));
  F32 r = fma(n, broadcast(-0x1.62ep-1F), x);
  r = fma(n, broadcast(-0x1.0bfbe8p-15F), r);
  F32 y = broadcast(1.0F / 5040);
  y = fma(y, r, broadcast(1.0F / 720));
  y = fma(y, r, broadcast(1.0F / 120));
  y = fma(y, r, broadcast(1.0F / 24));
  y = fma(y, r, broadcast(1.0F / 6));
  y = fma(y, r, broadcast(0.5F));
  y = fma(y * r, r, r) + broadcast(1.0F);
  return times_power_of_2(y, n);
}
