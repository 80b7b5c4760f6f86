#include "gguf/reader.h"

#include <iterator>

#include "base/mapped_file.h"
#include "gguf/cursor.h"
#include "gguf/part.h"

namespace kvant::gguf {

struct File::Impl {
  std::string path;
  std::vector<MappedFile> maps;  ///< empty when the bytes are somebody else's
  std::uint64_t size_bytes = 0;
  Part first;  ///< with the tensors of all parts
  NameIndex tensor_names;

  void index_tensors() {
    for (std::size_t i = 0; i < first.tensors.size(); ++i) tensor_names.add(first.tensors[i].name, i);
    if (const auto* twice = tensor_names.finish()) {
      fail_at(ErrorCode::format, path, {"tensor", *twice}, "the name is there twice");
    }
  }
};

namespace {

/// An optional split.* value of a part; 0 when the key is absent.
std::uint64_t split_value(const Part& part, const std::string& file, std::string_view key) {
  const Value* value = part.find(key);
  if (value == nullptr) return 0;
  if (const auto* number = std::get_if<std::uint64_t>(&value->data)) return *number;
  const auto* number = std::get_if<std::int64_t>(&value->data);
  if (number == nullptr || *number < 0) {
    fail_at(ErrorCode::format, file, {"metadata", key}, "expected an integer of 0 or more");
  }
  return static_cast<std::uint64_t>(*number);
}

/// Reads part `number` (from 0) of `count`, and checks that it says so itself.
void check_part(const Part& part, const std::string& file, std::uint64_t number, std::uint64_t count) {
  const std::uint64_t own_number = split_value(part, file, "split.no");
  const std::uint64_t own_count = split_value(part, file, "split.count");
  KVANT_CHECK(own_count == count, ErrorCode::format, "{}: metadata split.count: {}, expected {}", file, own_count,
              count);
  KVANT_CHECK(own_number == number, ErrorCode::format, "{}: metadata split.no: {}, expected {}", file, own_number,
              number);
}

/// "-00002-of-00003.gguf" for number 1 of 3.
std::string part_suffix(std::uint64_t number, std::uint64_t count) {
  return fmt::format("-{:05}-of-{:05}.gguf", number + 1, count);
}

}  // namespace

File File::open(const std::filesystem::path& path) {
  auto impl = std::make_unique<Impl>();
  impl->path = path.string();
  MappedFile named(path);
  Part part = parse_part(named.bytes(), impl->path);
  const std::uint64_t count = split_value(part, impl->path, "split.count");
  if (count <= 1) {
    impl->size_bytes = named.bytes().size();
    impl->first = std::move(part);
    impl->maps.push_back(std::move(named));
    impl->index_tensors();
    return File(std::move(impl));
  }

  const std::string suffix = part_suffix(split_value(part, impl->path, "split.no"), count);
  KVANT_CHECK(impl->path.ends_with(suffix), ErrorCode::format,
              "{}: part of a split model, but its name does not end in {}", impl->path, suffix);
  const std::string prefix = impl->path.substr(0, impl->path.size() - suffix.size());
  for (std::uint64_t number = 0; number < count; ++number) {
    const std::string file = prefix + part_suffix(number, count);
    KVANT_CHECK(std::filesystem::exists(file), ErrorCode::io, "{}: part {} of {} of the split model is missing", file,
                number + 1, count);
    const MappedFile& map = impl->maps.emplace_back(file);
    impl->size_bytes += map.bytes().size();
    Part next = parse_part(map.bytes(), file);
    check_part(next, file, number, count);
    if (number == 0) {
      impl->first = std::move(next);
    } else {
      std::move(next.tensors.begin(), next.tensors.end(), std::back_inserter(impl->first.tensors));
    }
  }
  const std::uint64_t expected = split_value(impl->first, impl->path, "split.tensors.count");
  KVANT_CHECK(impl->first.tensors.size() == expected, ErrorCode::format,
              "{}: metadata split.tensors.count: {}, but the parts have {}", impl->path, expected,
              impl->first.tensors.size());
  impl->index_tensors();
  return File(std::move(impl));
}

File File::parse(std::span<const std::byte> bytes, std::string name) {
  auto impl = std::make_unique<Impl>();
  impl->path = std::move(name);
  impl->size_bytes = bytes.size();
  impl->first = parse_part(bytes, impl->path);
  KVANT_CHECK(split_value(impl->first, impl->path, "split.count") <= 1, ErrorCode::unsupported,
              "{}: part of a split model, which can only be opened from files", impl->path);
  impl->index_tensors();
  return File(std::move(impl));
}

File::File(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
File::File(File&&) noexcept = default;
File& File::operator=(File&&) noexcept = default;
File::~File() = default;

const std::string& File::path() const noexcept { return impl_->path; }
std::uint32_t File::version() const noexcept { return impl_->first.version; }
std::uint64_t File::size_bytes() const noexcept { return impl_->size_bytes; }
std::span<const File::Entry> File::metadata() const noexcept { return impl_->first.metadata; }
const Value* File::find(std::string_view key) const noexcept { return impl_->first.find(key); }
std::span<const Tensor> File::tensors() const noexcept { return impl_->first.tensors; }

const Tensor* File::find_tensor(std::string_view name) const noexcept {
  const std::size_t* at = impl_->tensor_names.find(name);
  return at == nullptr ? nullptr : &impl_->first.tensors[*at];
}

const Tensor& File::tensor(std::string_view name) const {
  const Tensor* found = find_tensor(name);
  if (found == nullptr) fail_at(ErrorCode::format, path(), {"tensor", name}, "not in the file");
  return *found;
}

std::size_t Tensor::rows() const {
  std::size_t rows = 1;
  for (std::size_t i = 1; i < shape.size(); ++i) rows *= shape[i];
  return rows;
}

std::string Tensor::shape_text() const { return fmt::format("[{}]", fmt::join(shape, ",")); }

}  // namespace kvant::gguf
