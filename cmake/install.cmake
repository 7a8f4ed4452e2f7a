# What `cmake --install` and `cpack` put on a machine: the tools with their man pages and
# completions (package dsv3), and the libraries with their headers and a CMake package (package
# libdsv3-dev).
include(CMakePackageConfigHelpers)

set(dsv3_tools dsv3-convert dsv3-inspect dsv3-reshard dsv3-verify)
set(dsv3_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/dsv3)

# Where zsh looks: Debian's, in packages, below /usr in a directory for them, else in one for the
# site. The prefix is known only when the files are installed.
install(CODE [[
  if(CMAKE_INSTALL_PREFIX STREQUAL "/usr")
    set(dsv3_zsh_functions vendor-completions)
  else()
    set(dsv3_zsh_functions site-functions)
  endif()
]] COMPONENT dsv3)

# The tools print the pages and completions when they are linked (dsv3_generated_files), so that an
# installation needs no other target.
foreach(tool IN LISTS dsv3_tools)
  install(TARGETS ${tool} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT dsv3)
  if(CMAKE_CROSSCOMPILING)
    continue()  # the tools do not run here
  endif()
  install(FILES ${PROJECT_BINARY_DIR}/man/${tool}.1.gz
          DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 COMPONENT dsv3)
  install(FILES ${PROJECT_BINARY_DIR}/completions/bash/${tool}
          DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions COMPONENT dsv3)
  install(FILES ${PROJECT_BINARY_DIR}/completions/zsh/_${tool}
          DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/\${dsv3_zsh_functions} COMPONENT dsv3)
  install(FILES ${PROJECT_BINARY_DIR}/completions/fish/${tool}.fish
          DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d COMPONENT dsv3)
endforeach()

# What the reports and files of the tools look like, for programs that read them.
install(DIRECTORY ${PROJECT_SOURCE_DIR}/docs/schemas
        DESTINATION ${CMAKE_INSTALL_DATADIR}/dsv3 COMPONENT dsv3)

install(TARGETS dsv3_formats dsv3_quant dsv3_convert EXPORT dsv3Targets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT libdsv3-dev)
foreach(folder formats quant convert)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/${folder}
          DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/dsv3 COMPONENT libdsv3-dev
          FILES_MATCHING PATTERN "*.h" PATTERN "*-inl.h" EXCLUDE
          PATTERN scaleout EXCLUDE)
endforeach()
install(EXPORT dsv3Targets NAMESPACE dsv3:: DESTINATION ${dsv3_package_dir}
        COMPONENT libdsv3-dev)
configure_package_config_file(
  ${CMAKE_CURRENT_LIST_DIR}/dsv3Config.cmake.in ${PROJECT_BINARY_DIR}/dsv3Config.cmake
  INSTALL_DESTINATION ${dsv3_package_dir})
# Before 1.0 a minor version may change the interface.
write_basic_package_version_file(
  ${PROJECT_BINARY_DIR}/dsv3ConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/dsv3Config.cmake
              ${PROJECT_BINARY_DIR}/dsv3ConfigVersion.cmake
        DESTINATION ${dsv3_package_dir} COMPONENT libdsv3-dev)

include(${CMAKE_CURRENT_LIST_DIR}/package.cmake)
