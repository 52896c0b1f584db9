/* tlsfiles.c - certificates, keys, CAs and revocation lists: read at each connection and on demand, the last good ones kept. */
#include "wire/tlsfiles.h"
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { SETS_MAX = 64, PATHS = 4 };

typedef struct set {
    struct set *next;
    mx_tls_options o; /* its paths are copies; its name does not count */
    SSL_CTX *ctx;     /* of the last time that all could be used */
    char why[MX_TLS_WHY];
    int untold; /* why is new */
} set;

static set *sets; /* the one asked for last is first */

static const char *last_error(void) {
    unsigned long first = ERR_peek_error();
    const char *text = ERR_SYSTEM_ERROR(first) ? strerror(ERR_GET_REASON(first)) : ERR_reason_error_string(ERR_peek_last_error());
    ERR_clear_error();
    return text ? text : "unknown error";
}

__attribute__((format(printf, 2, 3))) static int refuse(char why[MX_TLS_WHY], const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(why, MX_TLS_WHY, format, args);
    va_end(args);
    return MX_ECONFIG;
}

static int load_revoked(SSL_CTX *ctx, const char *path) {
    X509_STORE *store = SSL_CTX_get_cert_store(ctx);
    X509_LOOKUP *lookup = X509_STORE_add_lookup(store, X509_LOOKUP_file());
    return lookup && X509_load_crl_file(lookup, path, X509_FILETYPE_PEM) > 0 &&
           X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK);
}

/* The key first: a certificate that is not its own drops it, which is found out below. */
static int load(SSL_CTX *ctx, const mx_tls_options *o, char why[MX_TLS_WHY]) {
    if (o->ca[0] ? !SSL_CTX_load_verify_file(ctx, o->ca) : !SSL_CTX_set_default_verify_paths(ctx))
        return refuse(why, "tls.ca %s cannot be used: %s", o->ca, last_error());
    if (o->key[0] && SSL_CTX_use_PrivateKey_file(ctx, o->key, SSL_FILETYPE_PEM) != 1)
        return refuse(why, "tls.key %s cannot be used: %s", o->key, last_error());
    if (o->cert[0] && SSL_CTX_use_certificate_chain_file(ctx, o->cert) != 1)
        return refuse(why, "tls.cert %s cannot be used: %s", o->cert, last_error());
    if (o->cert[0] && SSL_CTX_check_private_key(ctx) != 1) {
        ERR_clear_error();
        return refuse(why, "tls.key %s does not belong to tls.cert %s", o->key, o->cert);
    }
    if (o->crl[0] && !load_revoked(ctx, o->crl)) return refuse(why, "tls.crl %s cannot be used: %s", o->crl, last_error());
    return 0;
}

static SSL_CTX *context(const mx_tls_options *o, char why[MX_TLS_WHY]) {
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    if (!ctx) {
        refuse(why, "TLS cannot be used: %s", last_error());
        return NULL;
    }
    SSL_CTX_set_min_proto_version(ctx, o->min_version == 13 ? TLS1_3_VERSION : TLS1_2_VERSION);
    SSL_CTX_set_verify(ctx, o->unverified ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
    if (!load(ctx, o, why)) return ctx;
    SSL_CTX_free(ctx);
    return NULL;
}

static const char **path(mx_tls_options *o, int i) {
    const char **const paths[PATHS] = {&o->ca, &o->cert, &o->key, &o->crl};
    return paths[i];
}

static int is_same(set *s, mx_tls_options o) {
    for (int i = 0; i < PATHS; i++)
        if (strcmp(*path(&s->o, i), *path(&o, i))) return 0;
    return s->o.min_version == o.min_version && s->o.unverified == o.unverified;
}

static void drop(set *s) {
    for (int i = 0; i < PATHS; i++) free((void *)*path(&s->o, i));
    SSL_CTX_free(s->ctx);
    free(s);
}

static void read_again(set *s) {
    char why[MX_TLS_WHY] = "";
    SSL_CTX *ctx = context(&s->o, why);
    s->untold |= !ctx && strcmp(why, s->why);
    memcpy(s->why, why, sizeof why);
    if (!ctx) return;
    SSL_CTX_free(s->ctx);
    s->ctx = ctx;
    s->untold = 0;
}

static set *add(const mx_tls_options *o, SSL_CTX *ctx) {
    set *s = mx_zalloc(sizeof *s);
    s->o = *o;
    s->o.name = NULL;
    s->ctx = ctx;
    for (int i = 0; i < PATHS; i++) *path(&s->o, i) = mx_strndup(*path(&s->o, i), strlen(*path(&s->o, i)));
    return s;
}

/* Takes the set out of the list, and makes room there: connections keep what they use of those dropped. */
static set *take(const mx_tls_options *o) {
    int n = 0;
    set **at = &sets;
    while (*at && !is_same(*at, *o) && ++n < SETS_MAX) at = &(*at)->next;
    set *s = *at;
    if (!s) return NULL;
    *at = s->next;
    if (n < SETS_MAX) return s;
    drop(s);
    return NULL;
}

SSL_CTX *mx_tlsfiles_read(const mx_tls_options *o, char why[MX_TLS_WHY]) {
    set *s = take(o);
    if (s) {
        read_again(s);
    } else {
        SSL_CTX *ctx = context(o, why);
        if (!ctx) return NULL;
        s = add(o, ctx);
    }
    s->next = sets;
    sets = s;
    return s->ctx;
}

MX_EXPORT int mx_tls_reload(void) {
    int n = 0;
    for (set *s = sets; s; s = s->next, n++) read_again(s);
    return n;
}

MX_EXPORT const char *mx_tls_trouble(void) {
    for (set *s = sets; s; s = s->next) {
        if (!s->untold) continue;
        s->untold = 0;
        return s->why;
    }
    return NULL;
}
