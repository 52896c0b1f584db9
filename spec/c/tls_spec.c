/* TLS against a server of OpenSSL's own in a thread; certificates of spec/tls/pki. Run from the project's root. */
#include "wire/stream.h"
#include <arpa/inet.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static char pki[] = "/tmp/mxrun-pki.XXXXXX";

static char *file(const char *name, const char *kind) {
    static char paths[8][128];
    static int at;
    char *path = paths[at++ % 8];
    snprintf(path, 128, "%s/%s.%s", pki, name, kind);
    return path;
}

/* ---- the server: shakes hands once and echoes ---- */

typedef struct server {
    int listening;
    char port[8];
    SSL_CTX *ctx;
    int cuts;                 /* ends without close_notify after the first bytes */
    char sni[64], client[64]; /* the common name in its certificate */
    pthread_t thread;
} server;

static void echo(server *s, SSL *ssl) {
    char bytes[4096];
    for (int n; (n = SSL_read(ssl, bytes, sizeof bytes)) > 0;) {
        SSL_write(ssl, bytes, n);
        if (s->cuts) return;
    }
    SSL_shutdown(ssl);
}

static void *serve(void *arg) {
    server *s = arg;
    int fd = accept(s->listening, NULL, NULL);
    SSL *ssl = SSL_new(s->ctx);
    SSL_set_fd(ssl, fd);
    if (SSL_accept(ssl) == 1) {
        const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
        X509 *client = SSL_get0_peer_certificate(ssl);
        snprintf(s->sni, sizeof s->sni, "%s", name ? name : "");
        if (client) X509_NAME_get_text_by_NID(X509_get_subject_name(client), NID_commonName, s->client, sizeof s->client);
        echo(s, ssl);
    }
    SSL_free(ssl);
    close(fd);
    return NULL;
}

static void server_start(server *s, const char *cert, int newest, int wants_client) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    s->ctx = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_security_level(s->ctx, 0); /* it may be weak: the client has to notice */
    SSL_CTX_set_min_proto_version(s->ctx, TLS1_VERSION);
    SSL_CTX_set_max_proto_version(s->ctx, newest);
    assert_int_equal(SSL_CTX_use_certificate_chain_file(s->ctx, file(cert, "pem")), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey_file(s->ctx, file(cert, "key"), SSL_FILETYPE_PEM), 1);
    if (wants_client) {
        X509_STORE *store = SSL_CTX_get_cert_store(s->ctx);
        SSL_CTX_load_verify_file(s->ctx, file("ca", "pem"));
        X509_load_crl_file(X509_STORE_add_lookup(store, X509_LOOKUP_file()), file("crl", "pem"), X509_FILETYPE_PEM);
        X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK);
        SSL_CTX_set_verify(s->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    }
    s->listening = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(s->listening, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(s->listening, 1), 0);
    getsockname(s->listening, (struct sockaddr *)&at, &size);
    snprintf(s->port, sizeof s->port, "%d", ntohs(at.sin_port));
    pthread_create(&s->thread, NULL, serve, s);
}

static void server_end(server *s) {
    pthread_join(s->thread, NULL);
    close(s->listening);
    SSL_CTX_free(s->ctx);
}

/* ---- the client ---- */

typedef struct client {
    uv_loop_t loop;
    uv_timer_t patience;
    mx_stream *stream;
    uint8_t in[300000];
    size_t got, want, step, owed; /* bytes read, awaited, given as room at once, and rooms refused */
    int up, gone;
    char why[512];
    mx_sendq out;
} client;

static void stop(client *c) {
    mx_stream_close(c->stream);
    uv_close((uv_handle_t *)&c->patience, NULL);
}

static void on_up(void *arg) {
    client *c = arg;
    c->up = 1;
    if (c->want) mx_stream_write_out(c->stream, &c->out);
    else stop(c);
}
static void on_room(void *arg, uint8_t **p, size_t *n) {
    client *c = arg;
    size_t left = sizeof c->in - c->got;
    *p = c->in + c->got;
    *n = ++c->owed % 3 ? (c->step < left ? c->step : left) : 0;
}
static void on_data(void *arg, size_t n) {
    client *c = arg;
    c->got += n;
    if (c->got >= c->want && !uv_is_closing((uv_handle_t *)&c->patience)) stop(c);
}
static void on_drained(void *arg, size_t n) {
    client *c = arg;
    mx_sendq_wrote(&c->out, n);
    mx_stream_write_out(c->stream, &c->out);
}
static void on_down(void *arg, const char *why) {
    client *c = arg;
    snprintf(c->why, sizeof c->why, "%s", why);
    if (!uv_is_closing((uv_handle_t *)&c->patience)) stop(c);
}
static void on_gone(void *arg) { ((client *)arg)->gone = 1; }
static const mx_stream_events events = {on_up, on_room, on_data, on_drained, on_down, on_gone};

static void on_tick(uv_timer_t *t) { /* a stream that had no room is resumed from the loop, as its owner does */
    client *c = t->data;
    mx_stream_write_out(c->stream, &c->out);
    mx_stream_resume(c->stream);
}

static mx_tls_options options(void) {
    return (mx_tls_options){.ca = file("ca", "pem"), .cert = "", .key = "", .crl = "", .name = "localhost", .min_version = 12};
}

/* Connects, sends c->out, and runs until all is gone. */
static void talk(client *c, server *s, const mx_tls_options *o) {
    char why[MX_TLS_WHY] = "";
    uv_loop_init(&c->loop);
    uv_timer_init(&c->loop, &c->patience);
    c->patience.data = c;
    c->stream = mx_tls_open(&c->loop, "127.0.0.1", s->port, 5000, o, why, &events, c);
    assert_string_equal(why, "");
    assert_non_null(c->stream);
    uv_timer_start(&c->patience, on_tick, 1, 1);
    uv_run(&c->loop, UV_RUN_DEFAULT);
    assert_true(c->gone);
    assert_int_equal(uv_loop_close(&c->loop), 0);
    mx_sendq_clear(&c->out);
}

static client *client_new(size_t send, size_t step) {
    client *c = calloc(1, sizeof *c);
    c->want = send;
    c->step = step;
    if (send) {
        uint8_t *p = mx_sendq_reserve(&c->out, send);
        for (size_t i = 0; i < send; i++) p[i] = (uint8_t)(i * 7 + i / 251);
        mx_sendq_add(&c->out, send);
    }
    return c;
}

static void bytes_arrive_whole_whatever_room_there_is(void **state) {
    (void)state;
    size_t sizes[] = {1, 16384, 16385, 250000}, steps[] = {1000000, 1000, 7};
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; j < 3; j++) {
            server s = {0};
            server_start(&s, "good", TLS1_3_VERSION, 0);
            client *c = client_new(sizes[i], steps[j]);
            mx_tls_options o = options();
            talk(c, &s, &o);
            assert_string_equal(c->why, "");
            assert_int_equal(c->got, sizes[i]);
            for (size_t k = 0; k < c->got; k++) assert_int_equal(c->in[k], (uint8_t)(k * 7 + k / 251));
            server_end(&s);
            assert_string_equal(s.sni, "localhost");
            free(c);
        }
}

/* MXRUN_TIMES: how often what is random in a handshake is tried. */
static size_t times(void) {
    const char *text = getenv("MXRUN_TIMES");
    return text ? (size_t)atoi(text) : 1;
}

static void each_refusal_has_its_reason(void **state) {
    (void)state;
    static const struct {
        const char *cert, *ca, *name, *crl;
        int newest, wants_client;
        const char *why, *client;
    } cases[] = {
        {"expired", "ca", "localhost", NULL, TLS1_3_VERSION, 0, "certificate has expired", NULL},
        {"future", "ca", "localhost", NULL, TLS1_3_VERSION, 0, "not valid yet", NULL},
        {"elsewhere", "ca", "localhost", NULL, TLS1_3_VERSION, 0, "for another name", NULL},
        {"elsewhere", "ca", "127.0.0.1", NULL, TLS1_3_VERSION, 0, "does not name this address", NULL},
        {"good", "other", "localhost", NULL, TLS1_3_VERSION, 0, "from an unknown CA", NULL},
        {"self", "ca", "localhost", NULL, TLS1_3_VERSION, 0, "self-signed", NULL},
        {"revoked", "ca", "localhost", "crl", TLS1_3_VERSION, 0, "was revoked", NULL},
        {"weak", "ca", "localhost", NULL, TLS1_3_VERSION, 0, "key is too weak", NULL},
        {"good", "ca", "localhost", NULL, TLS1_1_VERSION, 0, "version of TLS", NULL},
        {"good", "ca", "localhost", NULL, TLS1_3_VERSION, 1, "wants a client certificate", NULL},
        {"good", "ca", "localhost", NULL, TLS1_2_VERSION, 1, "may want a client certificate", NULL},
        {"good", "ca", "localhost", NULL, TLS1_3_VERSION, 1, "our client certificate has expired", "expired"},
        {"good", "ca", "localhost", NULL, TLS1_2_VERSION, 1, "our client certificate has expired", "expired"},
        {"good", "ca", "localhost", NULL, TLS1_3_VERSION, 1, "does not know the CA of our client certificate", "self"},
        {"good", "ca", "localhost", NULL, TLS1_3_VERSION, 1, "our client certificate was revoked", "revoked"},
    };
    for (size_t k = 0, i; k < times() * (sizeof cases / sizeof *cases); k++) {
        i = k % (sizeof cases / sizeof *cases);
        server s = {0};
        server_start(&s, cases[i].cert, cases[i].newest, cases[i].wants_client);
        client *c = client_new(cases[i].wants_client ? 10 : 0, 1000); /* TLS 1.3 refuses after the handshake */
        mx_tls_options o = options();
        o.ca = file(cases[i].ca, "pem");
        o.name = cases[i].name;
        if (cases[i].crl) o.crl = file(cases[i].crl, "pem");
        if (cases[i].client) o.cert = file(cases[i].client, "pem"), o.key = file(cases[i].client, "key");
        talk(c, &s, &o);
        if (!strstr(c->why, cases[i].why)) fail_msg("case %zu: \"%s\" is not about \"%s\"", i, c->why, cases[i].why);
        assert_int_equal(c->got, 0);
        server_end(&s);
        free(c);
    }
}

static void what_is_right_connects(void **state) {
    (void)state;
    static const struct {
        const char *cert, *crl, *client, *name;
        int newest, unverified;
    } cases[] = {
        {"good", NULL, NULL, "localhost", TLS1_2_VERSION, 0},     {"good", NULL, NULL, "127.0.0.1", TLS1_3_VERSION, 0},
        {"good", "crl", NULL, "localhost", TLS1_3_VERSION, 0},    {"good", NULL, "client", "localhost", TLS1_3_VERSION, 0},
        {"good", NULL, "client", "localhost", TLS1_2_VERSION, 0}, {"self", NULL, NULL, "localhost", TLS1_3_VERSION, 1},
    };
    for (size_t k = 0, i; k < times() * (sizeof cases / sizeof *cases); k++) {
        i = k % (sizeof cases / sizeof *cases);
        server s = {0};
        server_start(&s, cases[i].cert, cases[i].newest, cases[i].client != NULL);
        client *c = client_new(100, 1000);
        mx_tls_options o = options();
        o.name = cases[i].name;
        o.unverified = cases[i].unverified;
        if (cases[i].crl) o.crl = file(cases[i].crl, "pem");
        if (cases[i].client) o.cert = file(cases[i].client, "pem"), o.key = file(cases[i].client, "key");
        talk(c, &s, &o);
        assert_string_equal(c->why, "");
        assert_int_equal(c->got, 100);
        server_end(&s);
        free(c);
    }
}

static void a_cut_is_a_loss_not_an_end(void **state) {
    (void)state;
    server s = {.cuts = 1};
    server_start(&s, "good", TLS1_3_VERSION, 0);
    client *c = client_new(10, 1000);
    mx_tls_options o = options();
    c->want = 1000; /* more than will come */
    talk(c, &s, &o);
    assert_string_equal(c->why, "the broker closed the connection without TLS's close_notify");
    server_end(&s);
    free(c);
}

static void files_that_cannot_be_used_are_named(void **state) {
    (void)state;
    struct {
        const char *field, *cert, *key, *ca, *crl, *why;
    } cases[] = {
        {"ca", "", "", "/nowhere/ca.pem", "", "tls.ca /nowhere/ca.pem cannot be used"},
        {"cert", "/nowhere/c.pem", "", file("ca", "pem"), "", "tls.cert /nowhere/c.pem cannot be used"},
        {"key", file("client", "pem"), "/nowhere/k.pem", file("ca", "pem"), "", "tls.key /nowhere/k.pem cannot be used"},
        {"pair", file("client", "pem"), file("client2", "key"), file("ca", "pem"), "", "does not belong to tls.cert"},
        {"weak", file("weak", "pem"), file("weak", "key"), file("ca", "pem"), "", "key too small"},
        {"crl", "", "", file("ca", "pem"), "/nowhere/crl.pem", "tls.crl /nowhere/crl.pem cannot be used"},
    };
    uv_loop_t loop;
    uv_loop_init(&loop);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char why[MX_TLS_WHY] = "";
        mx_tls_options o = {cases[i].ca, cases[i].cert, cases[i].key, cases[i].crl, "localhost", 12, 0};
        assert_null(mx_tls_open(&loop, "127.0.0.1", "1", 1000, &o, why, &events, NULL));
        if (!strstr(why, cases[i].why)) fail_msg("%s: %s", cases[i].field, why);
    }
    uv_loop_close(&loop);
}

/* The file's new content: that of another one, or so many bytes of it. */
static void put(const char *to, const char *from, int bytes) {
    char command[512];
    snprintf(command, sizeof command, bytes ? "head -c %3$d %2$s >%1$s" : "cp %2$s %1$s", to, from, bytes);
    assert_int_equal(system(command), 0);
}

/* Connects with the files as they are now, and answers as whom the server knows us. */
static const char *client_of(const char *cert, const char *key) {
    static server s;
    client *c = client_new(10, 1000);
    mx_tls_options o = options();
    o.cert = cert;
    o.key = key;
    s = (server){0};
    server_start(&s, "good", TLS1_3_VERSION, 1);
    talk(c, &s, &o);
    assert_string_equal(c->why, "");
    server_end(&s);
    free(c);
    return s.client;
}

static void new_files_are_taken_and_broken_ones_are_not(void **state) {
    (void)state;
    char cert[128], key[128];
    snprintf(cert, sizeof cert, "%s/now.pem", pki);
    snprintf(key, sizeof key, "%s/now.key", pki);
    put(cert, file("client", "pem"), 0);
    put(key, file("client", "key"), 0);
    assert_string_equal(client_of(cert, key), "localhost");
    assert_null(mx_tls_trouble());

    put(cert, file("client2", "pem"), 0); /* the key is not there yet */
    assert_string_equal(client_of(cert, key), "localhost");
    assert_non_null(strstr(mx_tls_trouble(), "does not belong to"));
    assert_string_equal(client_of(cert, key), "localhost");
    assert_null(mx_tls_trouble()); /* said before */

    put(key, file("client2", "key"), 300);
    assert_true(mx_tls_reload() > 0);
    assert_non_null(strstr(mx_tls_trouble(), "now.key cannot be used"));
    remove(key);
    assert_string_equal(client_of(cert, key), "localhost");
    assert_non_null(strstr(mx_tls_trouble(), "No such file"));
    assert_null(mx_tls_trouble());

    put(key, file("client2", "key"), 0);
    assert_string_equal(client_of(cert, key), "second");
    assert_null(mx_tls_trouble());
}

static void sets_of_files_do_not_grow_without_end(void **state) {
    (void)state;
    char why[MX_TLS_WHY], path[512];
    uv_loop_t loop;
    uv_loop_init(&loop);
    for (int i = 0; i < 100; i++) {
        mx_tls_options o = options();
        int n = snprintf(path, sizeof path, "%s", pki);
        for (int k = 0; k <= i; k++) n += snprintf(path + n, sizeof path - (size_t)n, "/.");
        snprintf(path + n, sizeof path - (size_t)n, "/ca.pem");
        o.ca = path;
        client *c = client_new(0, 1);
        c->stream = mx_tls_open(&loop, "127.0.0.1", "1", 1000, &o, why, &events, c);
        mx_stream_close(c->stream);
        uv_run(&loop, UV_RUN_DEFAULT);
        free(c);
    }
    uv_loop_close(&loop);
    assert_int_equal(mx_tls_reload(), 64);
}

static int make_pki(void **state) {
    char command[128];
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    snprintf(command, sizeof command, "spec/tls/pki %s", mkdtemp(pki));
    return system(command);
}

static int remove_pki(void **state) {
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", pki);
    return system(command);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_arrive_whole_whatever_room_there_is),
        cmocka_unit_test(each_refusal_has_its_reason),
        cmocka_unit_test(what_is_right_connects),
        cmocka_unit_test(a_cut_is_a_loss_not_an_end),
        cmocka_unit_test(files_that_cannot_be_used_are_named),
        cmocka_unit_test(new_files_are_taken_and_broken_ones_are_not),
        cmocka_unit_test(sets_of_files_do_not_grow_without_end),
    };
    return cmocka_run_group_tests(tests, make_pki, remove_pki);
}
