/* tlsfiles.h - what TLS has read from files, kept by the process for each set of options. */
#ifndef MX_TLSFILES_H
#define MX_TLSFILES_H
#include <openssl/ssl.h>
#include "wire/stream.h"

/* Reads the files that o names. When they cannot be used, what was read from them last stays in use, and mx_tls_trouble has the
 * reason. Borrowed until the next call. NULL: nothing of them could ever be used, and why. */
SSL_CTX *mx_tlsfiles_read(const mx_tls_options *o, char why[MX_TLS_WHY]);
#endif
