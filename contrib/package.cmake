# What is installed beside the program, and the .deb of it (make deb).
include(GNUInstallDirs)
set(DOC ${CMAKE_INSTALL_DATADIR}/doc/mxrun)

set(MANUAL ${CMAKE_BINARY_DIR}/manual)
add_custom_command(OUTPUT ${MANUAL}/mxrun.1.gz ${MANUAL}/mxrun-api.7.gz WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}
  DEPENDS mxrun docs/manual.lua docs/markdown.lua docs/api.md
  COMMAND ${CMAKE_COMMAND} -E make_directory ${MANUAL}
  COMMAND ${LUAJIT_PROGRAM} docs/manual.lua command $<TARGET_FILE:mxrun> ${PROJECT_VERSION} >${MANUAL}/mxrun.1
  COMMAND ${LUAJIT_PROGRAM} docs/manual.lua api docs/api.md ${PROJECT_VERSION} >${MANUAL}/mxrun-api.7
  COMMAND gzip -9nf ${MANUAL}/mxrun.1 ${MANUAL}/mxrun-api.7)
add_custom_target(manual ALL DEPENDS ${MANUAL}/mxrun.1.gz ${MANUAL}/mxrun-api.7.gz)

configure_file(contrib/debian/changelog ${CMAKE_BINARY_DIR}/changelog @ONLY)
execute_process(COMMAND gzip -9nkf ${CMAKE_BINARY_DIR}/changelog)
file(READ contrib/mxrun@.service SERVICE)
string(REPLACE /usr/local/bin/ ${CMAKE_INSTALL_FULL_BINDIR}/ SERVICE "${SERVICE}")
file(WRITE ${CMAKE_BINARY_DIR}/mxrun@.service "${SERVICE}")
if(CMAKE_INSTALL_PREFIX STREQUAL "/usr")
  set(ZSH ${CMAKE_INSTALL_DATADIR}/zsh/vendor-completions)
else()
  set(ZSH ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
endif()

install(TARGETS mxrun)
install(FILES ${MANUAL}/mxrun.1.gz DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES ${MANUAL}/mxrun-api.7.gz DESTINATION ${CMAKE_INSTALL_MANDIR}/man7)
install(FILES contrib/mxrun.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME mxrun)
install(FILES contrib/_mxrun DESTINATION ${ZSH})
install(FILES ${CMAKE_BINARY_DIR}/mxrun@.service DESTINATION lib/systemd/system)
install(FILES README.md contrib/debian/copyright ${CMAKE_BINARY_DIR}/changelog.gz DESTINATION ${DOC})
install(DIRECTORY examples DESTINATION ${DOC})
install(DIRECTORY docs DESTINATION ${DOC} FILES_MATCHING PATTERN *.md PATTERN meta EXCLUDE)
install(FILES contrib/dashboard.json contrib/prometheus-rules.yml DESTINATION ${CMAKE_INSTALL_DATADIR}/mxrun)
install(FILES docs/meta/mx.lua DESTINATION ${CMAKE_INSTALL_DATADIR}/mxrun/meta)

# Loaded when needed, so that dpkg-shlibdeps does not see them: libmicrohttpd, lua-cjson.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_CONTACT "mxrun <mxrun@lists.invalid>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "run Lua scripts against RabbitMQ")
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION "A handler is a Lua function; connections, confirms,
acknowledgements, retries, dead letters and time limits are seen to by a C
runtime with LuaJIT and libuv inside. The same script runs without a broker
on an embedded one, and is tested there.")
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION net)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DEPENDS "lua-cjson, libmicrohttpd12")
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "libcurl4, libedit2, lua-busted")
set(CPACK_DEBIAN_PACKAGE_SUGGESTS rabbitmq-server)
set(CPACK_STRIP_FILES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
include(CPack)
