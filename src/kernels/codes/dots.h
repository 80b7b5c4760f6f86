// Queries and sums of tiers with a dot product of bytes into 32 bits. Included in lanes_<tier>.h behind WholeWeights
// and add_products(sums, bytes without a sign, bytes with one).

/// Adds to each lane the dot product of its four bytes with four whole numbers.
[[gnu::always_inline]] inline Words dot(Words sums, Words bytes, const std::int8_t* four) {
  return add_products(sums, bytes, broadcast_four(four));
}

/// Rows of a query plane as dot takes them.
template <std::size_t rows, int bits>
using QueryRows = ByteQueries;

/// A row's sums over tokens.
template <bool coarse>
struct WeightedSums {
  Words high, low;

  [[gnu::always_inline]] void start(Words from) {
    high = set_words(0);
    low = from;
  }
  [[gnu::always_inline]] void add_four(Words bytes, const WholeWeights& weights, std::size_t token) {
    high = dot(high, bytes, weights.high.data() + token);
    low = dot(low, bytes, weights.low.data() + token);
  }
  [[gnu::always_inline]] Words total() const { return add(move_bits<0, 7>(high), low); }
};

/// Coarse weights take 8 bits without a sign, so the bytes have one: they come from value_table.
template <>
struct WeightedSums<true> {
  Words low;

  [[gnu::always_inline]] void start(Words from) { low = from; }
  [[gnu::always_inline]] void add_four(Words bytes, const WholeWeights& weights, std::size_t token) {
    low = add_products(low, broadcast_four(weights.low.data() + token), bytes);
  }
  [[gnu::always_inline]] Words total() const { return low; }
};
