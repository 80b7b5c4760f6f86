#pragma once
#include <optional>
#include <string_view>

#include "codec/flex.h"
#include "codec/permutation_file.h"
#include "codec/plan.h"

namespace kvant::calib {

/// Which `flex` layout a layer gets, by its outlier concentration: the share, in percent, of the energy of the keys as
/// they are stored that lies in each head's 32 strongest channels. Layers without a layout stay in f16.
struct Tiers {
  struct Tier {
    codec::FlexSpec layout;
    double threshold = 0;  ///< percent, from which on the layout is used
  };
  std::optional<Tier> extreme, high;  ///< thresholds by default 90 and 60
  std::optional<codec::FlexSpec> moderate;
  std::optional<codec::FlexSpec> all;  ///< for every layer, before any other

  /// The layout of a layer, or f16.
  std::optional<codec::FlexSpec> of(double outlier_percent) const;
};

/// Parses NAME=flex:S:H:L:JH:JL[@PERCENT],... with the names extreme, high, moderate and all, PERCENT for the first
/// two. Throws invalid_argument naming what is wrong.
Tiers parse_tiers(std::string_view text);

/// The permutation file of a model: each head's channels by falling second moment of the keys after RoPE, ties in
/// channel order, and each layer's layout. The second moment of a channel is its squared mean and half of what is left
/// of its pair's: RoPE spreads that evenly. Throws invalid_argument when head_dim is not 128.
codec::PermutationFile make_permutation_file(const codec::Plan& plan, const Tiers& tiers);

}  // namespace kvant::calib
