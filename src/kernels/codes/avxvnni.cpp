#include "kernels/codes/lanes_avxvnni.h"

#ifdef KVANT_X86
namespace kvant::kernels::avxvnni {
#include "kernels/codes/table.h"
}  // namespace kvant::kernels::avxvnni
#endif
