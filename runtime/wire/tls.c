/* tls.c - a stream over TLS: another stream carries what OpenSSL makes of the owner's bytes.
 *
 *   owner <-> SSL <-> memory BIOs <-> tcp
 *
 * The broker's certificate and name are verified; each refusal says what is wrong and what to do. */
#include <arpa/inet.h>
#include <malloc.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include "measure/account.h"
#include "wire/tlsfiles.h"

enum { CIPHER_ROOM = 32 * 1024 };

typedef struct tls {
    mx_stream base; /* first */
    mx_stream *tcp;
    SSL *ssl;
    BIO *in, *out; /* ciphertext; the SSL owns them */
    uint8_t *cipher;
    mx_sendq waiting; /* ciphertext that tcp did not take */
    uv_idle_t more;   /* plain bytes are left that came with others */
    const mx_stream_events *events;
    void *arg;
    int up, down, closing, gone, full, broken; /* broken: reason is still to be told */
    char reason[320];
} tls;

/* What verification says, and what to do about it. */
static const struct {
    long code;
    const char *text;
} refusals[] = {
    {X509_V_ERR_CERT_HAS_EXPIRED, "the broker's certificate has expired; renew it there"},
    {X509_V_ERR_CERT_NOT_YET_VALID, "the broker's certificate is not valid yet; check both clocks"},
    {X509_V_ERR_HOSTNAME_MISMATCH, "the broker's certificate is for another name; connect by that name, or set tls.server_name"},
    {X509_V_ERR_IP_ADDRESS_MISMATCH,
     "the broker's certificate does not name this address; connect by name, or set tls.server_name"},
    {X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
     "the broker's certificate is from an unknown CA; set tls.ca to that CA's certificate"},
    {X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE,
     "the broker's certificate is from an unknown CA; set tls.ca to that CA's certificate"},
    {X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN, "the broker's CA is not trusted; set tls.ca to its certificate"},
    {X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT,
     "the broker's certificate is self-signed; set tls.ca to it, or give the broker one from a CA"},
    {X509_V_ERR_CERT_REVOKED, "the broker's certificate was revoked; renew it there"},
    {X509_V_ERR_UNABLE_TO_GET_CRL, "tls.crl holds no list of the broker's CA"},
    {X509_V_ERR_CRL_HAS_EXPIRED, "the list in tls.crl has expired; fetch a new one"},
    {X509_V_ERR_EE_KEY_TOO_SMALL, "the broker's key is too weak; it needs 2048 bits of RSA or more"},
    {X509_V_ERR_CA_KEY_TOO_SMALL, "the CA's key is too weak; it needs 2048 bits of RSA or more"},
    {X509_V_ERR_CA_MD_TOO_WEAK, "a certificate is signed with a weak digest; it needs SHA-256 or better"},
};

/* What the handshake or the broker's alerts say. */
static const struct {
    int reason;
    const char *text;
} alerts[] = {
    {SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED, "the broker wants a client certificate; set tls.cert and tls.key"},
    {SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE,
     "the broker refused the handshake; it may want a client certificate (tls.cert, tls.key)"},
    {SSL_R_SSLV3_ALERT_BAD_CERTIFICATE, "the broker refused our client certificate"},
    {SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED, "the broker says that our client certificate has expired"},
    {SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED, "the broker says that our client certificate was revoked"},
    {SSL_R_TLSV1_ALERT_UNKNOWN_CA, "the broker does not know the CA of our client certificate"},
    {SSL_R_TLSV1_ALERT_PROTOCOL_VERSION, "the broker does not speak this version of TLS; see tls.min_version"},
    {SSL_R_UNSUPPORTED_PROTOCOL, "the broker speaks only an old version of TLS; see tls.min_version"},
    {SSL_R_WRONG_VERSION_NUMBER, "what answers does not speak TLS; is this the port for amqps://?"},
};

static const char *explain(tls *s) {
    long verdict = SSL_get_verify_result(s->ssl);
    unsigned long e = ERR_peek_error();
    const char *text = NULL;
    if (verdict != X509_V_OK && SSL_get_verify_mode(s->ssl) != SSL_VERIFY_NONE) {
        for (size_t i = 0; i < sizeof refusals / sizeof *refusals && !text; i++)
            if (refusals[i].code == verdict) text = refusals[i].text;
        if (!text) text = X509_verify_cert_error_string(verdict);
    } else {
        for (size_t i = 0; i < sizeof alerts / sizeof *alerts && !text; i++)
            if (alerts[i].reason == ERR_GET_REASON(e)) text = alerts[i].text;
        if (!text) text = e ? ERR_reason_error_string(e) : "the handshake failed";
    }
    snprintf(s->reason, sizeof s->reason, "TLS: %s", text ? text : "the handshake failed");
    ERR_clear_error();
    return s->reason;
}

static void tell_down(tls *s, const char *why) {
    if (s->down || s->closing) return;
    s->down = 1;
    s->events->down(s->arg, why);
}

/* What OpenSSL has to say goes to tcp; what tcp does not take stays until it has drained. */
static void flush(tls *s) {
    size_t n = BIO_ctrl_pending(s->out);
    if (n) {
        BIO_read(s->out, mx_sendq_reserve(&s->waiting, n), (int)n);
        mx_sendq_add(&s->waiting, n);
    }
    mx_stream_write_out(s->tcp, &s->waiting);
}

/* Hands plain bytes to the owner while it has room. */
static void deliver(tls *s) {
    while (s->up && !s->down && !s->closing) {
        uint8_t *p = NULL;
        size_t n = 0;
        s->events->room(s->arg, &p, &n);
        s->full = n == 0;
        if (s->full) return;
        ERR_clear_error();
        int got = SSL_read(s->ssl, p, n > INT32_MAX ? INT32_MAX : (int)n);
        if (got > 0) {
            s->events->data(s->arg, (size_t)got);
            continue;
        }
        int e = SSL_get_error(s->ssl, got);
        flush(s);
        if (e == SSL_ERROR_ZERO_RETURN) tell_down(s, mx_stream_end);
        else if (e != SSL_ERROR_WANT_READ && e != SSL_ERROR_WANT_WRITE) tell_down(s, explain(s));
        return;
    }
}

static void shake_hands(tls *s) {
    ERR_clear_error();
    int done = SSL_do_handshake(s->ssl), e = SSL_get_error(s->ssl, done);
    flush(s);
    if (done == 1) {
        s->up = 1;
        s->events->up(s->arg);
    } else if (e != SSL_ERROR_WANT_READ && e != SSL_ERROR_WANT_WRITE) {
        tell_down(s, explain(s));
    }
}

static void on_up(void *arg) { shake_hands(arg); }

static void on_room(void *arg, uint8_t **p, size_t *n) {
    tls *s = arg;
    *p = s->cipher;
    *n = s->full ? 0 : CIPHER_ROOM;
}

static void on_data(void *arg, size_t n) {
    tls *s = arg;
    BIO_write(s->in, s->cipher, (int)n);
    if (!s->up) shake_hands(s);
    deliver(s);
}

static void on_drained(void *arg, size_t n) {
    tls *s = arg;
    mx_sendq_wrote(&s->waiting, n);
    flush(s);
    if (s->up && !s->waiting.pending) s->events->drained(s->arg, 0);
}

/* Without a close_notify somebody else may have cut it: a loss, never a clean end. */
static void on_down(void *arg, const char *why) {
    tls *s = arg;
    if (s->up) deliver(s);
    const char *when = !s->up ? " during the TLS handshake" : why == mx_stream_end ? " without TLS's close_notify" : "";
    snprintf(s->reason, sizeof s->reason, "%s%s", why, when);
    tell_down(s, s->reason);
}

static void finish(tls *s) {
    SSL_free(s->ssl);
    mx_sendq_clear(&s->waiting);
    free(s->cipher);
    s->events->gone(s->arg);
    free(s);
}

static void on_idle_closed(uv_handle_t *h) { finish(h->data); }

static void on_gone(void *arg) {
    tls *s = arg;
    uv_close((uv_handle_t *)&s->more, on_idle_closed);
}

static void on_more(uv_idle_t *h) {
    tls *s = h->data;
    uv_idle_stop(h);
    if (s->broken) {
        tell_down(s, s->reason);
        return;
    }
    if (!s->up) shake_hands(s);
    deliver(s);
    if (!s->full) mx_stream_resume(s->tcp);
}

static void resume(mx_stream *stream) {
    tls *s = (tls *)stream;
    if (s->full && !s->closing) uv_idle_start(&s->more, on_more);
}

static void be_patient(mx_stream *stream, int timeout_ms) { mx_stream_patience(((tls *)stream)->tcp, timeout_ms); }

static int is_local(const mx_stream *stream) { return mx_stream_is_local(((const tls *)stream)->tcp); }

static size_t write_out(mx_stream *stream, const uint8_t *p, size_t n) {
    tls *s = (tls *)stream;
    if (!s->up || s->down || s->closing || s->broken || s->waiting.pending || !n) return 0;
    if (n > INT32_MAX) n = INT32_MAX;
    ERR_clear_error();
    if (SSL_write(s->ssl, p, (int)n) <= 0) { /* the owner is told from the loop */
        explain(s);
        s->broken = 1;
        uv_idle_start(&s->more, on_more);
        return 0;
    }
    flush(s);
    return n;
}

static size_t pending(const mx_stream *stream) { return ((const tls *)stream)->waiting.pending; }

static void say_goodbye(tls *s) {
    SSL_shutdown(s->ssl);
    flush(s);
    ERR_clear_error();
}

static int finish_writing(mx_stream *stream) {
    tls *s = (tls *)stream;
    if (!s->up || s->down || s->closing) return 0;
    say_goodbye(s);
    return mx_stream_finish(s->tcp);
}

static void close_down(mx_stream *stream) {
    tls *s = (tls *)stream;
    if (s->closing) return;
    s->closing = 1;
    if (s->up && !s->down && !(SSL_get_shutdown(s->ssl) & SSL_SENT_SHUTDOWN)) say_goodbye(s);
    uv_idle_stop(&s->more);
    mx_stream_close(s->tcp);
}

static const mx_stream_kind tls_kind = {write_out, pending, finish_writing, resume, be_patient, is_local, close_down};
static const mx_stream_events tcp_events = {on_up, on_room, on_data, on_drained, on_down, on_gone};

static int is_address(const char *name) {
    uint8_t binary[16];
    return inet_pton(AF_INET, name, binary) == 1 || inet_pton(AF_INET6, name, binary) == 1;
}

/* The name in the certificate's alternative names; its common name never counts (RFC 6125). */
static int expect_name(SSL *ssl, const char *name) {
    X509_VERIFY_PARAM *p = SSL_get0_param(ssl);
    X509_VERIFY_PARAM_set_hostflags(p, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
    if (is_address(name)) return X509_VERIFY_PARAM_set1_ip_asc(p, name) == 1;
    return X509_VERIFY_PARAM_set1_host(p, name, 0) == 1 && SSL_set_tlsext_host_name(ssl, name) == 1;
}

static SSL *prepare(const mx_tls_options *o, char why[MX_TLS_WHY]) {
    SSL_CTX *ctx = mx_tlsfiles_read(o, why);
    SSL *ssl = ctx ? SSL_new(ctx) : NULL;
    if (!ssl || expect_name(ssl, o->name)) return ssl;
    ERR_clear_error();
    snprintf(why, MX_TLS_WHY, "tls.server_name '%s' is no host name", o->name);
    SSL_free(ssl);
    return NULL;
}

static tls *create(uv_loop_t *loop, const mx_tls_options *o, char why[MX_TLS_WHY], const mx_stream_events *e, void *arg) {
    SSL *ssl = prepare(o, why);
    if (!ssl) return NULL;
    tls *s = mx_zalloc(sizeof *s);
    s->base.kind = &tls_kind;
    s->events = e;
    s->arg = arg;
    s->ssl = ssl;
    s->in = BIO_new(BIO_s_mem());
    s->out = BIO_new(BIO_s_mem());
    s->cipher = mx_zalloc(CIPHER_ROOM);
    SSL_set_bio(ssl, s->in, s->out);
    SSL_set_connect_state(ssl);
    uv_idle_init(loop, &s->more);
    s->more.data = s;
    return s;
}

mx_stream *mx_tls_open(uv_loop_t *loop, const char *host, const char *port, int timeout_ms, const mx_tls_options *o,
                       char why[MX_TLS_WHY], const mx_stream_events *e, void *arg) {
    tls *s = create(loop, o, why, e, arg);
    if (!s) return NULL;
    s->tcp = mx_tcp_open(loop, host, port, timeout_ms, &tcp_events, s);
    return &s->base;
}

mx_stream *mx_tls_over(uv_loop_t *loop, mx_stream *tcp, const mx_tls_options *o, char why[MX_TLS_WHY], const mx_stream_events *e,
                       void *arg) {
    tls *s = create(loop, o, why, e, arg);
    if (!s) return NULL;
    s->tcp = tcp;
    mx_tcp_pass(tcp, &tcp_events, s);
    uv_idle_start(&s->more, on_more); /* no event comes from within this call */
    return &s->base;
}

/* ---- what OpenSSL holds ---- */

static void *count(void *p) {
    if (p) mx_hold(MX_OF_TLS, malloc_usable_size(p));
    return p;
}

static void uncount(void *p) {
    if (p) mx_let_go(MX_OF_TLS, malloc_usable_size(p));
}

static void *allocate(size_t n, const char *file, int line) {
    (void)file, (void)line;
    return count(malloc(n));
}

static void *resize(void *p, size_t n, const char *file, int line) {
    (void)file, (void)line;
    uncount(p);
    void *q = realloc(p, n);
    if (!q && n) count(p);
    return count(q);
}

static void release(void *p, const char *file, int line) {
    (void)file, (void)line;
    uncount(p);
    free(p);
}

void mx_tls_count_memory(void) { CRYPTO_set_mem_functions(allocate, resize, release); }
