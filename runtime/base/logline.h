/* logline.h - lines of the log as scripts/mx/log.lua writes them, from where there is no Lua. */
#ifndef MX_LOGLINE_H
#define MX_LOGLINE_H

void mx_log_setup(const char *format, const char *level); /* as --log and --log-level; NULL: text, info */
/* fields: "name=value name=value", no value with a space or a quote in it; may be empty. */
void mx_log(const char *level, const char *text, const char *fields, ...) __attribute__((format(printf, 3, 4)));
#endif
