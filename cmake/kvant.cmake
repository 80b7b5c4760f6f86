# Build rules shared by every folder: one folder = one namespace = one target.
include(CheckCXXCompilerFlag)

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

find_program(KVANT_CCACHE ccache)
if(KVANT_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${KVANT_CCACHE}")
endif()

find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(fmt REQUIRED)

add_library(kvant_flags INTERFACE)
# No contraction: encoded bytes must not depend on the compiler's choice of FMA (docs/numerics.md).
target_compile_options(kvant_flags INTERFACE -ffp-contract=off -fno-math-errno -Wall -Wextra -Wshadow -Wconversion
                                             -Wno-psabi $<$<BOOL:${KVANT_WERROR}>:-Werror>)
if(KVANT_SANITIZE)
  # g++ 12 sees uninitialised values inside std::regex once it is instrumented.
  target_compile_options(kvant_flags INTERFACE -fsanitize=${KVANT_SANITIZE} -fno-omit-frame-pointer
                                               $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>
                                               -fno-sanitize-recover=all)
  target_link_options(kvant_flags INTERFACE -fsanitize=${KVANT_SANITIZE})
endif()
if(KVANT_BUILD_FUZZ)
  target_compile_options(kvant_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()

# kvant_library(name DEPS other...): all sources of the folder (tests and benchmarks aside, subfolders included) as target
# kvant_<name>, alias kvant::<name>; with its <unit>_test.cpp as <name>_test and its <unit>_bench.cpp as <name>_bench.
# SERIAL_TESTS: its tests run alone (see kvant_test).
function(kvant_library name)
  cmake_parse_arguments(ARG "SERIAL_TESTS" "" "DEPS;PRIVATE_DEPS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "*.cpp" "*.h")
  set(tests ${sources})
  set(benches ${sources})
  list(FILTER tests INCLUDE REGEX "_test\\.cpp$")
  list(FILTER benches INCLUDE REGEX "_bench\\.cpp$")
  list(FILTER sources EXCLUDE REGEX "_(test|bench)\\.cpp$")
  add_library(kvant_${name} STATIC ${sources})
  add_library(kvant::${name} ALIAS kvant_${name})
  target_include_directories(kvant_${name} PUBLIC "${PROJECT_SOURCE_DIR}/src")
  target_link_libraries(kvant_${name} PUBLIC kvant_flags fmt::fmt Threads::Threads ${ARG_DEPS} PRIVATE ${ARG_PRIVATE_DEPS})
  if(tests AND KVANT_BUILD_TESTS)
    set(serial "")
    if(ARG_SERIAL_TESTS)
      set(serial SERIAL)
    endif()
    kvant_test(${name}_test SOURCES ${tests} DEPS kvant::${name} ${ARG_PRIVATE_DEPS} ${serial})
  endif()
  if(benches AND KVANT_BUILD_BENCH)
    kvant_bench(${name}_bench SOURCES ${benches} DEPS kvant::${name})
  endif()
endfunction()

# kvant_test(name SOURCES files... DEPS targets... [LABELS labels...]): a gtest program whose cases are ctest tests, each
# labelled with the program's name and `labels`. The label "slow" keeps a test out of the sanitizer and qemu
# runs; SERIAL tests measure speed and run alone.
function(kvant_test name)
  cmake_parse_arguments(ARG "SERIAL" "" "SOURCES;DEPS;LABELS" ${ARGN})
  find_package(GTest REQUIRED)
  include(GoogleTest)
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gmock GTest::gtest GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE KVANT_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  list(JOIN ARG_LABELS "\\;" labels)  # gtest_discover_tests takes a list as one escaped value
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 120 DISCOVERY_MODE PRE_TEST
                       PROPERTIES TIMEOUT 900 RUN_SERIAL ${ARG_SERIAL}
                                  LABELS "${name}\\;${labels}" SKIP_REGULAR_EXPRESSION "\\[  SKIPPED \\]")
endfunction()

if(KVANT_BUILD_FUZZ)
  add_custom_target(fuzz)  # all fuzz targets
endif()

# kvant_fuzz(name SOURCES files... DEPS targets... CORPUS folder): a libFuzzer program fuzz_<name> where
# KVANT_BUILD_FUZZ is on; elsewhere a test that feeds the corpus once to the same entry point.
function(kvant_fuzz name)
  cmake_parse_arguments(ARG "" "CORPUS" "SOURCES;DEPS" ${ARGN})
  add_executable(fuzz_${name} ${ARG_SOURCES})
  target_link_libraries(fuzz_${name} PRIVATE ${ARG_DEPS})
  if(KVANT_BUILD_FUZZ)
    target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
    add_dependencies(fuzz fuzz_${name})
  else()
    target_sources(fuzz_${name} PRIVATE "${PROJECT_SOURCE_DIR}/tests/fuzz/replay.cpp")
    add_test(NAME fuzz_${name}.corpus COMMAND fuzz_${name} "${CMAKE_CURRENT_SOURCE_DIR}/${ARG_CORPUS}")
    set_tests_properties(fuzz_${name}.corpus PROPERTIES TIMEOUT 300 LABELS fuzz)
  endif()
endfunction()

# kvant_bench(name SOURCES files... DEPS targets...): a google-benchmark program.
function(kvant_bench name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  find_package(benchmark REQUIRED)
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} benchmark::benchmark benchmark::benchmark_main)
endfunction()
