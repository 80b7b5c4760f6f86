#include "kernels/codes/lanes_avx2.h"
#include "kernels/codes/lanes_avx512.h"

#ifdef KVANT_X86
namespace kvant::kernels::avx512 {
namespace {

/// Where dims are no multiple of 64, 16 of them may lie in two pieces of the 1-bit plane, which vectors of 8 avoid.
template <int bits>
void mix_any(const CodeMixArgs& a) noexcept {
  static_assert(bits % 2 == 1);
  a.pages.layout.padded_dims() % 64 == 0 ? mix_codes<bits>(a) : avx2::mix_codes<bits>(a);
}

}  // namespace

extern const CodeKernels kCodes;
constinit const CodeKernels kCodes{
    {score_codes<1>, score_codes<2>, score_codes<3>, score_codes<4>, score_codes<5>, score_codes<6>, score_codes<7>,
     score_codes<8>},
    {mix_any<1>, mix_codes<2>, mix_any<3>, mix_codes<4>, mix_any<5>, mix_codes<6>, mix_any<7>, mix_codes<8>},
};

}  // namespace kvant::kernels::avx512
#endif
