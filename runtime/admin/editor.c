/* editor.c - libedit on our loop, by its unbuffered mode. */
#include "admin/editor.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <histedit.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { ROOM = 256 * 1024, HISTORY = 1000 };

#define CALLS(X)                                                                                                                 \
    X(el_init)                                                                                                                   \
    X(el_end)                                                                                                                    \
    X(el_set)                                                                                                                    \
    X(el_wset)                                                                                                                   \
    X(el_get)                                                                                                                    \
    X(el_gets)                                                                                                                   \
    X(el_line)                                                                                                                   \
    X(el_insertstr)                                                                                                              \
    X(el_cursor)                                                                                                                 \
    X(history_init)                                                                                                              \
    X(history_end)                                                                                                               \
    X(history)

static struct {
#define X(name) __typeof__(&name) name;
    CALLS(X)
#undef X
} edit;

struct mx_editor {
    mx_runtime *runtime;
    EditLine *el;
    History *history;
    HistEvent event;
    FILE *to;
    uv_poll_t in, out;
    int open_handles;
    int key;             /* what is to be taken */
    uint32_t ticket;     /* of whoever waits for it, 0: nobody */
    char *line, *prompt; /* ours */
    char *file;          /* of the history; NULL: none */
    size_t size;         /* of what the terminal did not take yet */
    char late[ROOM];
};

static char *prompt_of(EditLine *el) {
    mx_editor *e;
    edit.el_get(el, EL_CLIENTDATA, &e);
    return e->prompt;
}

/* Reading ----------------------------------------------------------------------------------------------------- */

static void look(mx_editor *e);
static void draw(mx_editor *e);

static void set_prompt(mx_editor *e, const char *text) {
    free(e->prompt);
    e->prompt = mx_strndup(text, strlen(text));
}

/* A new line, without a prompt until there is one: what is typed meanwhile stays. */
static void begin(mx_editor *e) {
    if (e->key == MX_KEY_INTERRUPT) fputs("\r\n", e->to);
    set_prompt(e, "");
    if (!e->size) draw(e);
}

/* Readable and nothing to read: the terminal has gone. el_gets says of an empty line what it says of that. */
static int is_over(void) {
    int n = 0;
    return ioctl(0, FIONREAD, &n) || !n;
}

static void on_key(uv_poll_t *p, int status, int events) {
    mx_editor *e = p->data;
    int n = 0;
    (void)events;
    if (status || is_over()) {
        e->key = MX_KEY_END;
        look(e);
        return;
    }
    const char *text = edit.el_gets(e->el, &n);
    if (text && n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r')) {
        e->key = MX_KEY_LINE;
        free(e->line);
        e->line = mx_strndup(text, (size_t)n - 1);
    } else if (text && n == 1 && text[0] == '\004') e->key = MX_KEY_END;
    if (e->key == MX_KEY_LINE || e->key == MX_KEY_INTERRUPT) begin(e);
    look(e);
}

/* Keys are read while somebody waits for what they make. */
static void look(mx_editor *e) {
    if (!e->ticket) {
        uv_poll_stop(&e->in);
    } else if (!e->key) {
        uv_poll_start(&e->in, UV_READABLE, on_key);
    } else {
        mx_wait_post(&e->runtime->waits.pub, e->ticket, 0, NULL);
        e->ticket = 0;
        e->runtime->wake(e->runtime);
        uv_poll_stop(&e->in);
    }
}

static unsigned char noted(EditLine *el, int key) {
    mx_editor *e;
    edit.el_get(el, EL_CLIENTDATA, &e);
    const LineInfo *at = edit.el_line(el);
    free(e->line);
    e->line = mx_strndup(at->buffer, (size_t)(at->cursor - at->buffer));
    e->key = key;
    return CC_NORM;
}

static unsigned char on_tab(EditLine *el, int c) { return (void)c, noted(el, MX_KEY_TAB); }
static unsigned char on_interrupt(EditLine *el, int c) { return (void)c, noted(el, MX_KEY_INTERRUPT); }

MX_EXPORT void mx_editor_wait(mx_runtime *r, uint32_t ticket) {
    if (!r->editor) return;
    r->editor->ticket = ticket;
    look(r->editor);
}

static void remember(mx_editor *e) {
    if (!*e->line || *e->line == ' ') return;
    edit.history(e->history, &e->event, H_ENTER, e->line);
    if (e->file) edit.history(e->history, &e->event, H_SAVE, e->file);
}

MX_EXPORT int mx_editor_take(mx_runtime *r, const char **text, size_t *size) {
    mx_editor *e = r->editor;
    int key = e ? e->key : MX_KEY_END;
    if (!e) return key;
    e->key = MX_KEY_NONE;
    *text = e->line ? e->line : "";
    *size = strlen(*text);
    if (key == MX_KEY_LINE) remember(e);
    return key;
}

/* Writing ----------------------------------------------------------------------------------------------------- */

static void on_writable(uv_poll_t *p, int status, int events);

static void push(mx_editor *e) {
    ssize_t n = e->size ? write(fileno(e->to), e->late, e->size) : 0;
    if (n > 0) memmove(e->late, e->late + n, e->size -= (size_t)n);
    if (e->size) uv_poll_start(&e->out, UV_WRITABLE, on_writable);
    else uv_poll_stop(&e->out);
}

/* libedit draws the prompt and an empty line as it enters its mode. */
static void draw(mx_editor *e) {
    fputs("\r\033[J", e->to);
    edit.el_set(e->el, EL_UNBUFFERED, 0);
    edit.el_set(e->el, EL_UNBUFFERED, 1);
}

/* EL_REFRESH takes it that the cursor stands where the prompt begins. */
static void insert(mx_editor *e, const char *text, int from_end) {
    edit.el_insertstr(e->el, text);
    edit.el_cursor(e->el, -from_end);
    fputs("\r\033[J", e->to);
    edit.el_set(e->el, EL_REFRESH);
}

static void redraw(mx_editor *e) {
    const LineInfo *at = edit.el_line(e->el);
    char *line = mx_strndup(at->buffer, (size_t)(at->lastchar - at->buffer));
    int from_end = (int)(at->lastchar - at->cursor);
    draw(e);
    if (*line) insert(e, line, from_end);
    free(line);
}

static void on_writable(uv_poll_t *p, int status, int events) {
    mx_editor *e = p->data;
    (void)events;
    if (status) e->size = 0;
    push(e);
    if (!e->size) redraw(e);
}

static void add(mx_editor *e, const char *p, size_t n) {
    size_t room = sizeof e->late - e->size;
    memcpy(e->late + e->size, p, n < room ? n : room);
    e->size += n < room ? n : room;
}

MX_EXPORT void mx_editor_print(mx_runtime *r, const char *p, size_t n) {
    mx_editor *e = r->editor;
    if (!e) return;
    if (!e->size) add(e, "\r\033[J", 4);
    add(e, p, n);
    push(e);
    if (!e->size) redraw(e);
}

MX_EXPORT void mx_editor_prompt(mx_runtime *r, const char *text) {
    mx_editor *e = r->editor;
    if (!e) return;
    set_prompt(e, text);
    if (!e->size) redraw(e);
}

MX_EXPORT void mx_editor_insert(mx_runtime *r, const char *text) {
    if (!r->editor || !*text) return;
    insert(r->editor, text, 0);
}

/* Opening and closing ----------------------------------------------------------------------------------------- */

static int load(void) {
    void *library = dlopen("libedit.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!library) return mx_refuse(MX_EINTERNAL, "%s", dlerror());
#define X(name)                                                                                                                  \
    if (!(edit.name = (__typeof__(&name))dlsym(library, #name))) return mx_refuse(MX_EINTERNAL, "libedit has no " #name);
    CALLS(X)
#undef X
    return 0;
}

/* A file description of our own, which may be made not to block without the shell's being so. */
static FILE *terminal(void) {
    int fd = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    return fd < 0 ? NULL : fdopen(fd, "w");
}

static void start_history(mx_editor *e, const char *file) {
    e->history = edit.history_init();
    edit.history(e->history, &e->event, H_SETSIZE, HISTORY);
    edit.history(e->history, &e->event, H_SETUNIQUE, 1);
    edit.el_set(e->el, EL_HIST, edit.history, e->history);
    if (!*file) return;
    int fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600); /* for nobody else */
    if (fd < 0) return;
    close(fd);
    e->file = mx_strndup(file, strlen(file));
    edit.history(e->history, &e->event, H_LOAD, file);
}

static void start(mx_editor *e) {
    edit.el_set(e->el, EL_CLIENTDATA, e);
    edit.el_set(e->el, EL_SIGNAL, 0);
    edit.el_set(e->el, EL_EDITOR, "emacs");
    edit.el_set(e->el, EL_PROMPT, prompt_of);
    edit.el_wset(e->el, EL_ADDFN, L"mx-complete", L"completes", on_tab); /* the narrow one leaks its texts */
    edit.el_wset(e->el, EL_ADDFN, L"mx-interrupt", L"ends the evaluation", on_interrupt);
    edit.el_set(e->el, EL_BIND, "^I", "mx-complete", NULL);
    edit.el_set(e->el, EL_BIND, "^C", "mx-interrupt", NULL);
    edit.el_set(e->el, EL_SETTY, "-d", "-isig", NULL); /* ^C is a key */
}

MX_EXPORT int mx_editor_open(mx_runtime *r, const char *history) {
    if (!isatty(0) || !isatty(1)) return mx_refuse(MX_ECONFIG, "there is no terminal");
    int code = load();
    FILE *to = code ? NULL : terminal();
    if (!to) return code ? code : mx_refuse(MX_EINTERNAL, "the terminal cannot be opened for writing");
    setlocale(LC_CTYPE, "C.UTF-8");
    mx_editor *e = mx_zalloc(sizeof *e);
    e->runtime = r;
    e->to = to;
    e->prompt = mx_strndup("", 0);
    e->el = edit.el_init("mxrun", stdin, to, stderr);
    start(e);
    start_history(e, history);
    uv_poll_init(r->loop, &e->in, 0);
    uv_poll_init(r->loop, &e->out, fileno(to));
    e->in.data = e->out.data = e;
    e->open_handles = 2;
    r->editor = e;
    return 0;
}

static void on_closed(uv_handle_t *handle) {
    mx_editor *e = handle->data;
    if (--e->open_handles) return;
    fclose(e->to);
    free(e->line);
    free(e->prompt);
    free(e->file);
    free(e);
}

MX_EXPORT void mx_editor_close(mx_runtime *r) {
    mx_editor *e = r->editor;
    if (!e) return;
    r->editor = NULL;
    push(e);
    edit.el_set(e->el, EL_UNBUFFERED, 0);
    edit.history_end(e->history);
    edit.el_end(e->el);
    uv_close((uv_handle_t *)&e->in, on_closed);
    uv_close((uv_handle_t *)&e->out, on_closed);
}
