# `cpack` in the build directory makes the two Debian packages.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME dsv3)
set(CPACK_PACKAGE_VENDOR "dsv3")
set(CPACK_PACKAGE_CONTACT "dsv3 maintainers")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_VERBATIM_VARIABLES ON)
set(CPACK_COMPONENTS_ALL dsv3 libdsv3-dev)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)

set(CPACK_DEBIAN_DSV3_PACKAGE_NAME dsv3)
set(CPACK_DEBIAN_DSV3_PACKAGE_SECTION utils)
set(CPACK_DEBIAN_DSV3_PACKAGE_SHLIBDEPS ON)
set(CPACK_COMPONENT_DSV3_DESCRIPTION
"${PROJECT_DESCRIPTION}
 dsv3-convert casts block-scaled FP8 checkpoints to BF16 on a CPU, resumes
 after an interruption and records checksums; dsv3-inspect shows what a
 checkpoint holds without reading its weights.")

set(CPACK_DEBIAN_LIBDSV3-DEV_PACKAGE_NAME libdsv3-dev)
set(CPACK_DEBIAN_LIBDSV3-DEV_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_LIBDSV3-DEV_PACKAGE_DEPENDS
    "libtbb-dev, libssl-dev, nlohmann-json3-dev, libfmt-dev, libhwy-dev, libxxhash-dev, libzstd-dev, \
pkg-config")
set(CPACK_COMPONENT_LIBDSV3-DEV_DESCRIPTION
"${PROJECT_DESCRIPTION} (development files)
 Static libraries, headers and a CMake package: find_package(dsv3) gives
 dsv3::formats, dsv3::quant and dsv3::convert.")

foreach(package dsv3 libdsv3-dev)
  install(FILES ${PROJECT_SOURCE_DIR}/CHANGELOG.md ${PROJECT_SOURCE_DIR}/SECURITY.md
          DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${package} COMPONENT ${package})
endforeach()
# With all that README.md and the pages of docs/ lead to.
install(FILES ${PROJECT_SOURCE_DIR}/README.md ${PROJECT_SOURCE_DIR}/CONTRIBUTING.md
        DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/dsv3 COMPONENT dsv3)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/docs
        DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/dsv3 COMPONENT dsv3)
install(PROGRAMS ${PROJECT_SOURCE_DIR}/scripts/unpack.py
        DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/dsv3/scripts COMPONENT dsv3)

include(CPack)
