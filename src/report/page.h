#pragma once
#include <string>
#include <string_view>

namespace kvant::report {

/// The page without its data, as built from the folder report; empty where kvant was built without it
/// (-DKVANT_REPORT=OFF, or no npm).
std::string_view page_template() noexcept;

/// `json`, a document in ASCII, so that it can stand in a <script> element: no "<" is left in it, hence neither
/// "</script" nor "<!--", and it still says the same.
std::string escape_for_script(std::string_view json);

/// The template with a document in the one place meant for it. Throws unsupported where the template is empty, format
/// where it does not have exactly one such place.
std::string render(std::string_view page, std::string_view document);

}  // namespace kvant::report
