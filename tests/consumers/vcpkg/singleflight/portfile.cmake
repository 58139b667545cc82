# SPDX-License-Identifier: MIT

# An overlay port: it packages the clone that it lies in. A registry's copy calls vcpkg_from_git here,
# with the URL, the tag v${VERSION} and the commit of its own choice.
get_filename_component(SOURCE_PATH "${CMAKE_CURRENT_LIST_DIR}/../../../.." ABSOLUTE)

set(VCPKG_BUILD_TYPE release) # headers are the same in every configuration

vcpkg_cmake_configure(
  SOURCE_PATH "${SOURCE_PATH}"
  OPTIONS -DSINGLEFLIGHT_BUILD_TESTS=OFF -DSINGLEFLIGHT_BUILD_EXAMPLES=OFF
          -DSINGLEFLIGHT_INSTALL=ON
)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(CONFIG_PATH share/cmake/singleflight)
vcpkg_fixup_pkgconfig()
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
