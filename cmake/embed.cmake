# kvant_embed(target NAMESPACE namespace SYMBOL function FILE file): adds the definition of
# std::string_view <namespace>::<function>() noexcept, the bytes of a file as they are when the target is built.
function(kvant_embed target)
  cmake_parse_arguments(ARG "" "NAMESPACE;SYMBOL;FILE" "" ${ARGN})
  set(source "${CMAKE_CURRENT_BINARY_DIR}/${ARG_SYMBOL}.cpp")
  file(CONFIGURE OUTPUT "${source}" @ONLY CONTENT [[
#include <cstddef>
#include <string_view>
asm(".pushsection .rodata.@ARG_SYMBOL@,\"a\"\n"
    ".global @ARG_SYMBOL@_begin, @ARG_SYMBOL@_end\n"
    "@ARG_SYMBOL@_begin: .incbin \"@ARG_FILE@\"\n"
    "@ARG_SYMBOL@_end: .popsection\n");
extern "C" const char @ARG_SYMBOL@_begin[], @ARG_SYMBOL@_end[];
namespace @ARG_NAMESPACE@ {
std::string_view @ARG_SYMBOL@() noexcept {
  return {@ARG_SYMBOL@_begin, static_cast<std::size_t>(@ARG_SYMBOL@_end - @ARG_SYMBOL@_begin)};
}
}  // namespace @ARG_NAMESPACE@
]])
  set_source_files_properties("${source}" PROPERTIES OBJECT_DEPENDS "${ARG_FILE}")
  target_sources(${target} PRIVATE "${source}")
endfunction()
