/* upload.c - libcurl on our loop: each of its sockets is polled, its timeout is a timer. */
#define CURL_DISABLE_TYPECHECK
#include "admin/upload.h"
#include <curl/curl.h>
#include <dlfcn.h>
#include <stdlib.h>

#define CALLS(X)                                                                                                                 \
    X(curl_global_init)                                                                                                          \
    X(curl_easy_init)                                                                                                            \
    X(curl_easy_setopt)                                                                                                          \
    X(curl_easy_getinfo)                                                                                                         \
    X(curl_easy_cleanup)                                                                                                         \
    X(curl_easy_strerror)                                                                                                        \
    X(curl_slist_append)                                                                                                         \
    X(curl_slist_free_all)                                                                                                       \
    X(curl_multi_init)                                                                                                           \
    X(curl_multi_setopt)                                                                                                         \
    X(curl_multi_assign)                                                                                                         \
    X(curl_multi_add_handle)                                                                                                     \
    X(curl_multi_remove_handle)                                                                                                  \
    X(curl_multi_socket_action)                                                                                                  \
    X(curl_multi_info_read)                                                                                                      \
    X(curl_multi_cleanup)

static struct {
#define X(name) __typeof__(&(name)) name;
    CALLS(X)
#undef X
} lib;

typedef struct request {
    struct request *next;
    CURL *easy;
    struct curl_slist *headers;
    uint32_t ticket;
    char why[CURL_ERROR_SIZE];
} request;

typedef struct watch { /* one of libcurl's sockets */
    uv_poll_t poll;
    struct mx_uploader *uploader;
    curl_socket_t fd;
} watch;

struct mx_uploader {
    mx_runtime *runtime;
    CURLM *multi;
    request *requests;
    uv_timer_t timer;
};

static void forget(mx_uploader *p, request *q) {
    request **at = &p->requests;
    while (*at != q) at = &(*at)->next;
    *at = q->next;
    lib.curl_multi_remove_handle(p->multi, q->easy);
    lib.curl_easy_cleanup(q->easy);
    lib.curl_slist_free_all(q->headers);
    free(q);
}

static void answer(mx_uploader *p, request *q, CURLcode code) {
    long status = 0;
    lib.curl_easy_getinfo(q->easy, CURLINFO_RESPONSE_CODE, &status);
    const char *why = *q->why ? q->why : lib.curl_easy_strerror(code);
    mx_reply *reply = code ? mx_reply_new(MX_ECONNECTION, 0, why, strlen(why)) : NULL;
    mx_wait_post(&p->runtime->waits.pub, q->ticket, code ? MX_ECONNECTION : (int)status, reply);
    p->runtime->wake(p->runtime);
}

static void take_answers(mx_uploader *p) {
    int left;
    for (CURLMsg *m; (m = lib.curl_multi_info_read(p->multi, &left));) {
        request *q = p->requests;
        while (q && q->easy != m->easy_handle) q = q->next;
        if (m->msg != CURLMSG_DONE || !q) continue;
        answer(p, q, m->data.result);
        forget(p, q);
    }
}

static void act(mx_uploader *p, curl_socket_t fd, int events) {
    int running;
    lib.curl_multi_socket_action(p->multi, fd, events, &running);
    take_answers(p);
}

static void on_ready(uv_poll_t *poll, int status, int events) {
    watch *w = poll->data;
    int what = status < 0 ? CURL_CSELECT_ERR : 0;
    if (events & UV_READABLE) what |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE) what |= CURL_CSELECT_OUT;
    act(w->uploader, w->fd, what);
}

static void on_time(uv_timer_t *t) { act(t->data, CURL_SOCKET_TIMEOUT, 0); }

static int on_timeout(CURLM *multi, long ms, void *arg) {
    mx_uploader *p = arg;
    (void)multi;
    if (ms < 0) uv_timer_stop(&p->timer);
    else uv_timer_start(&p->timer, on_time, (uint64_t)ms, 0);
    return 0;
}

static void on_unwatched(uv_handle_t *h) { free(h->data); }

static watch *watch_new(mx_uploader *p, curl_socket_t fd) {
    watch *w = mx_zalloc(sizeof *w);
    w->uploader = p;
    w->fd = fd;
    uv_poll_init_socket(p->runtime->loop, &w->poll, fd);
    w->poll.data = w;
    lib.curl_multi_assign(p->multi, fd, w);
    return w;
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *known) {
    mx_uploader *p = arg;
    watch *w = known;
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (w) uv_close((uv_handle_t *)&w->poll, on_unwatched);
        lib.curl_multi_assign(p->multi, fd, NULL);
        return 0;
    }
    if (!w) w = watch_new(p, fd);
    uv_poll_start(&w->poll, (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0), on_ready);
    return 0;
}

static int load(void) {
    void *library = dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);
    if (!library) return mx_refuse(MX_ECONFIG, "%s", dlerror());
#define X(name)                                                                                                                  \
    if (!(lib.name = (__typeof__(&(name)))dlsym(library, #name))) return mx_refuse(MX_ECONFIG, "libcurl has no " #name);
    CALLS(X)
#undef X
    if (lib.curl_global_init(CURL_GLOBAL_DEFAULT)) return mx_refuse(MX_ECONFIG, "libcurl does not start");
    return 0;
}

static int begin(mx_runtime *r) {
    int e = r->uploader ? 0 : load();
    if (e || r->uploader) return e;
    mx_uploader *p = mx_zalloc(sizeof *p);
    p->runtime = r;
    p->multi = lib.curl_multi_init();
    uv_timer_init(r->loop, &p->timer);
    p->timer.data = p;
    lib.curl_multi_setopt(p->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    lib.curl_multi_setopt(p->multi, CURLMOPT_SOCKETDATA, p);
    lib.curl_multi_setopt(p->multi, CURLMOPT_TIMERFUNCTION, on_timeout);
    lib.curl_multi_setopt(p->multi, CURLMOPT_TIMERDATA, p);
    r->uploader = p;
    return 0;
}

static size_t on_body(char *bytes, size_t size, size_t n, void *arg) {
    (void)bytes, (void)arg;
    return size * n;
}

/* Each line of the text. */
static struct curl_slist *lines(const char *text) {
    struct curl_slist *list = lib.curl_slist_append(NULL, "Expect:"); /* not to wait for leave to send */
    for (size_t n; *text; text += n + (text[n] == '\n')) {
        n = strcspn(text, "\n");
        char *line = mx_strndup(text, n);
        list = lib.curl_slist_append(list, line);
        free(line);
    }
    return list;
}

MX_EXPORT int mx_upload(mx_runtime *r, const mx_upload_options *o, const void *body, size_t n, uint32_t ticket) {
    int e = begin(r);
    if (e) return e;
    request *q = mx_zalloc(sizeof *q);
    CURL *easy = q->easy = lib.curl_easy_init();
    q->ticket = ticket;
    q->headers = lines(o->headers);
    lib.curl_easy_setopt(easy, CURLOPT_URL, o->url);
    lib.curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    lib.curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    lib.curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L); /* a name that is being looked up holds nobody up */
    lib.curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, q->why);
    lib.curl_easy_setopt(easy, CURLOPT_HTTPHEADER, q->headers);
    lib.curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)n);
    lib.curl_easy_setopt(easy, CURLOPT_COPYPOSTFIELDS, body);
    lib.curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)(o->timeout * 1000));
    lib.curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    if (o->ca) lib.curl_easy_setopt(easy, CURLOPT_CAINFO, o->ca);
    q->next = r->uploader->requests;
    r->uploader->requests = q;
    lib.curl_multi_add_handle(r->uploader->multi, easy);
    return 0;
}

static void on_closed(uv_handle_t *h) { free(h->data); }

void mx_uploader_close(mx_runtime *r) {
    mx_uploader *p = r->uploader;
    if (!p) return;
    r->uploader = NULL;
    while (p->requests) forget(p, p->requests);
    lib.curl_multi_cleanup(p->multi); /* closes kept connections: on_socket hears of it */
    uv_close((uv_handle_t *)&p->timer, on_closed);
}
