# SPDX-License-Identifier: MIT

# The headers count as the consumer's own here, so that a warning in them is an error.
add_executable(app ${CMAKE_CURRENT_LIST_DIR}/main.cpp ${CMAKE_CURRENT_LIST_DIR}/users.cpp)
target_compile_options(app PRIVATE -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror)
target_link_libraries(app PRIVATE singleflight::singleflight)
set_target_properties(app PROPERTIES NO_SYSTEM_FROM_IMPORTED ON)
