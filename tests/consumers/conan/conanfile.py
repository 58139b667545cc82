# SPDX-License-Identifier: MIT

import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.files import copy, load

required_conan_version = ">=2.0"


class SingleflightConan(ConanFile):
    """Packages the clone that this file lies in. For TLS in redis.hpp, require openssl as well."""

    name = "singleflight"
    description = "Many callers, one execution, one shared result"
    license = "MIT"
    package_type = "header-library"
    settings = "os", "compiler", "build_type", "arch"
    no_copy_source = True

    def _clone(self):
        return os.path.join(self.recipe_folder, "..", "..", "..")

    def set_version(self):
        header = os.path.join(self._clone(), "include", "singleflight", "version.hpp")
        self.version = re.search(r'VERSION_STRING "([0-9.]+)"', load(self, header)).group(1)

    def export_sources(self):
        copy(self, "include/singleflight/*.hpp", self._clone(), self.export_sources_folder)
        copy(self, "LICENSE", self._clone(), self.export_sources_folder)

    def package_id(self):
        self.info.clear()

    def validate(self):
        check_min_cppstd(self, 20)

    def package(self):
        copy(self, "*.hpp", os.path.join(self.source_folder, "include"),
             os.path.join(self.package_folder, "include"))
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))

    def package_info(self):
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
        if self.settings.os in ("Linux", "FreeBSD"):
            self.cpp_info.system_libs = ["pthread"]
